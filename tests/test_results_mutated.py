"""Saved results from strangers: whatever is in one, it is refused with an error, or shown.

Documents that s3lora wrote are changed in a place or two, and then every format has to take them
or refuse them.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from adapters import NAMES, PREFIX, Q, draw, write_adapter
from cards import parts
from s3lora import TopK, compare, open_adapter, plan, scan
from s3lora.errors import AdapterError, DataError
from s3lora.report import make_comparison, make_ranking, make_report
from s3lora.report.formats import RENDERERS, render, show
from s3lora.report.reading import read
from s3lora.selection import Among, ByLayer

MISSING = object()
VALUES: list[Any] = [
    MISSING,
    None,
    True,
    "",
    "x",
    "1; touch pwned #",
    "\ud800",
    "https://evil.example",
    "m." + "1" * 5000 + ".q",
    0,
    -1,
    1,
    3.5,
    2**63,
    10**400,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    5e-324,
    [],
    ["x"],
    [1],
    [1.7976931348623157e308] * 2,
    {},
    {"x": 1},
    {"\ud800": 1},
]


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> dict[str, Any]:
    """The JSON of a result of each kind, with everything in it that one can have."""
    folder = tmp_path_factory.mktemp("results")
    extra = {f"{PREFIX}norm.weight": draw(4)}
    adapter = open_adapter(write_adapter(folder / "a", extra=extra))
    dora = open_adapter(write_adapter(folder / "b", config={"use_dora": True}))
    tables = tuple(scan(adapter, name) for name in ("s3lora", "magnitude", "random"))
    policy = Among(("q_proj", "v_proj"), TopK(1))
    layers = ByLayer(TopK(1))
    planned = plan(adapter, [Q], target="zero-fill")
    results = {
        "scan": make_report(adapter, tables[0], layers, chosen=layers(tables[0])),
        "plan": make_report(adapter, tables[0], policy, chosen=planned.chosen, plan=planned),
        "dora": make_report(dora, scan(dora), TopK(0), chosen=()),
        "rank": make_ranking(adapter, tables, 2),
        "compare": make_comparison(adapter, dora, compare(adapter, dora)),
    }
    return {kind: json.loads(render(result, "json")) for kind, result in results.items()}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a document but itself."""
    if not isinstance(value, dict | list):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [p for key, item in items for p in ((*path, key), *places(item, (*path, key)))]


def changed(document: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put another value in a place, or take it away; a place that has gone is passed over."""
    try:
        for key in path[:-1]:
            document = document[key]
        if value is MISSING:
            del document[path[-1]]
        else:
            document[path[-1]] = copy.deepcopy(value)
    except (KeyError, IndexError, TypeError):
        return


def shown(raw: bytes) -> None:
    """Read and render in every format; what comes out can be written to a file."""
    try:
        result = read(raw)
    except (AdapterError, DataError) as error:
        str(error).encode("utf-8", "surrogateescape")
        return
    for form in RENDERERS:
        text = render(result, form)
        text.encode()
        if form == "html":
            in_command(text)
        if form == "card":
            parts(text)
    for verbose in (False, True):
        buffer = StringIO()
        show(result, Console(file=buffer, width=80, color_system=None), verbose=verbose)
        buffer.getvalue().encode()


def in_command(page: str) -> None:
    """What the page puts into its command is words, and numbers where numbers are meant."""
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    choice = data["choice"]
    if choice is None:
        return
    if choice["kind"] != "asked":
        assert type(choice["value"]) in (int, float)
    elif choice["words"] is not None:
        words = shlex.split(choice["words"], comments=True)
        assert all(re.match("--[a-z-]+=", word) and ";" not in word for word in words), words


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_result_with_a_place_changed_is_refused_or_shown(documents, data):
    kind = data.draw(st.sampled_from(sorted(documents)))
    document = copy.deepcopy(documents[kind])
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(documents[kind])))
        changed(document, path, data.draw(st.sampled_from(VALUES)))
    shown(json.dumps(document).encode())


@pytest.mark.parametrize(
    "params",
    [
        {"k": "1; touch ${HOME}/pwned #", "granularity": "layer"},
        {"k": "1; touch ${HOME}/pwned #"},
        {"k": 1, "granularity": "layer; touch pwned"},
        {"k": 1.5},
        {"k": -1},
        {"threshold": "0.5; x"},
        {"z": [1]},
        {"fraction": None},
        {"k": 1, "among": 3},
        {"k": 1, "among": [1]},
        {"names": 5},
        {"names": [1]},
    ],
    ids=str,
)
def test_parameters_of_a_policy_are_of_their_types(documents, params):
    document = copy.deepcopy(documents["scan"])
    document["policy"]["params"] = params
    with pytest.raises(DataError, match="this is no result of s3lora: policy"):
        read(json.dumps(document).encode())


def test_parameters_of_a_policy_that_is_not_ours_are_in_no_command(documents):
    document = copy.deepcopy(documents["scan"])
    document["policy"] = {"name": "mine", "params": {"limit": "1; touch pwned"}}
    page = render(read(json.dumps(document).encode()), "html")
    assert '"words":null' in page


def test_half_a_character_is_refused_and_an_odd_byte_of_a_path_is_not(documents):
    for kind, field in (("scan", "weights"), ("scan", "ref")):
        document = copy.deepcopy(documents[kind])
        document["adapter"][field] = "\ud800"
        with pytest.raises(DataError, match="half a character"):
            read(json.dumps(document).encode())
        document["adapter"][field] = "caf\udce9 \U0001f600"
        assert getattr(read(json.dumps(document).encode()), field) == "caf\udce9 \U0001f600"
        shown(json.dumps(document).encode())


def test_the_largest_floats_are_shown(documents):
    document = copy.deepcopy(documents["scan"])
    for row in document["modules"]:
        largest = 1.7976931348623157e308
        row["spectra"] = {"update": [largest, largest]}
        row["score"] = largest if row["module"] == NAMES[0] else -largest
    shown(json.dumps(document).encode())
