"""Plans from strangers: read, or refused with an error, whatever is in the file."""

from __future__ import annotations

import copy
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import Q, V, write_adapter
from s3lora import open_adapter, prune
from s3lora.cli import cli
from s3lora.edits import EDITORS, Flatten, make_editor
from s3lora.errors import ParameterError, S3LoraError
from s3lora.lab.evaluation_plan import planned_again, read_plan
from test_results_mutated import VALUES, changed, places


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Any]:
    """The adapter, and plans for it as they are written, by kind."""
    folder = tmp_path_factory.mktemp("plans")
    source = write_adapter(folder / "a")
    words = ["prune", str(source), "--modules", Q, "--modules", V, "--dry-run", "--format", "json"]
    documents: dict[str, Any] = {"adapter": source, "folder": folder}
    for edit in ("drop", "flatten", "truncate", "scale"):
        documents[edit] = json.loads(CliRunner().invoke(cli, [*words, "--edit", edit]).stdout)
    prune(open_adapter(source), [Q], folder / "out", edit=Flatten(0.95))
    documents["manifest"] = json.loads((folder / "out" / "s3lora.json").read_text())
    return documents


def carried_out(files: dict[str, Any], document: Any) -> None:
    path = files["folder"] / "plan.json"
    path.write_text(json.dumps(document))
    planned_again(read_plan(path), open_adapter(files["adapter"]))


@pytest.mark.parametrize("kind", ["drop", "flatten", "truncate", "scale", "manifest"])
def test_what_was_written_is_carried_out(files, kind):
    carried_out(files, files[kind])


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_plan_with_a_place_changed_is_carried_out_or_refused(files, data):
    document = copy.deepcopy(files[data.draw(st.sampled_from(["drop", "flatten", "manifest"]))])
    for part in ("modules", "scores", "versions"):
        document.pop(part, None)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(document)))
        changed(document, path, data.draw(st.sampled_from(VALUES)))
        if not isinstance(document, dict) or not places(document):
            return
    with suppress(S3LoraError):
        carried_out(files, document)


@pytest.mark.parametrize(
    "value", [None, [1], {"x": 1}, True, "x", "", 10**400, -1, "nan"], ids=range(9)
)
def test_a_parameter_of_an_edit_that_does_not_fit_is_an_error_of_ours(files, value):
    for edit, name in (("flatten", "level"), ("truncate", "energy"), ("scale", "factor")):
        document = copy.deepcopy(files[edit])
        document["plan"]["edit"]["params"] = {name: value}
        with pytest.raises(ParameterError):
            carried_out(files, document)
    if value != 10**400:  # that many to keep is all of them
        with pytest.raises(ParameterError):
            make_editor("flatten", {"level": 0.5, "keep": value})


def test_values_of_the_right_type_are_taken_as_they_are():
    assert make_editor("scale", {"factor": 1}) == EDITORS["scale"](1)
    assert make_editor("flatten", {"level": "0.5", "keep": 3}) == Flatten(0.5, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {
            "adapter": {"sha256": "0"},
            "chosen": [],
            "plan": {
                "edit": {"name": "drop", "params": ["ab", "c"]},
                "target": "minimal",
                "fold_scale": False,
            },
        },
        {"adapter": [], "plan": {}},
        {"source": {"files": {"a": 1}}},
        {},
    ],
    ids=str,
)
def test_what_is_no_plan_is_a_parameter_error(files, wrong):
    with pytest.raises(ParameterError, match="holds no plan to prune: "):
        carried_out(files, wrong)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({"kind": "plan", "question": "?"}, "`s3lora plan`"),
        ({"kind": "rank", "adapter": "a"}, "`s3lora rank`"),
        ({"kind": "scan", "adapter": {}}, "`s3lora scan`"),
    ],
)
def test_another_document_of_ours_is_named_as_what_it_is(files, document, what):
    with pytest.raises(ParameterError, match=what) as caught:
        carried_out(files, document)
    assert "prune --dry-run" in caught.value.hint


def test_a_pipe_a_device_and_a_file_that_is_too_large_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "nowhere"):
        with pytest.raises(ParameterError):
            read_plan(path)
    (tmp_path / "large").write_bytes(b"{}")
    monkeypatch.setattr("s3lora.lab.evaluation_plan.MOST_BYTES", 1)
    with pytest.raises(ParameterError, match="more than 1"):
        read_plan(tmp_path / "large")
    (tmp_path / "odd").write_bytes(b"[")
    monkeypatch.undo()
    with pytest.raises(ParameterError, match="not valid JSON"):
        read_plan(tmp_path / "odd")
