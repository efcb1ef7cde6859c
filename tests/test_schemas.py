"""The published schemas themselves: valid, described, as the code says, and in the documents."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError

from s3lora.compare import STATUSES
from s3lora.findings import SEVERITIES
from s3lora.lab import evaluate
from s3lora.lab.evaluation_figures import Block
from s3lora.lab.metrics.calibration import Calibration
from s3lora.lab.metrics.intervals import Better, Figure
from s3lora.lab.planner.grammar import Fault, Rule, Step
from s3lora.lab.planner.trace import OUTCOMES, Part, Spent
from s3lora.lab.probes import Openings
from s3lora.lab.settings import Settings
from s3lora.lab.study.costs import Cost
from s3lora.lab.study.rows import CausalRow, Effect, Replies, Row
from s3lora.lab.suites.cases import Side
from schemas import check, names, schema

ROOT = Path(__file__).parent.parent
LINES = ("causal", "rows")
"""Files of studies that the repository keeps."""

NUMBERED = {
    "calibrate",
    "check",
    "compare",
    "eval",
    "gate",
    "manifest",
    "plan",
    "rank",
    "scan",
    "suite",
}
"""Documents that say which schema they are of."""


def walk(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema within a schema that has properties, with where it is."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from walk(item, f"{path}/{at}")
    if isinstance(value, dict):
        if "properties" in value:
            yield path, value
        for key, item in value.items():
            yield from walk(item, f"{path}/{key}")


def at(name: str, path: str) -> dict[str, Any]:
    """The schema that is at a path of properties; a list stands for its items, a reference for
    what it refers to.
    """
    whole = schema(name)
    found = whole
    for step in path.split("/") if path else ():
        found = _open(whole, found["properties"][step])
    return found


def _open(whole: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    while True:
        if "$ref" in found:
            found = whole["$defs"][found["$ref"].rpartition("/")[2]]
        elif "anyOf" in found:
            found = found["anyOf"][0]
        elif "items" in found:
            found = found["items"]
        else:
            return found


@pytest.mark.parametrize("name", names())
def test_a_schema_is_one(name):
    found = schema(name)
    Draft202012Validator.check_schema(found)
    assert found["$id"] == f"urn:s3lora:schema:1:{name}"
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["title"]
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(found)))
    assert used == found.get("$defs", {}).keys()
    assert '"additionalProperties": false' not in json.dumps(found), "fields may be added"


@pytest.mark.parametrize("name", names())
def test_every_field_is_described_and_is_there_or_may_be_missing(name):
    found = schema(name)
    for path, holder in walk(found):
        assert set(holder["required"]) <= holder["properties"].keys(), path
        for field, told in holder["properties"].items():
            definition = found["$defs"][told["$ref"].rpartition("/")[2]] if "$ref" in told else {}
            assert told.get("description") or definition.get("description"), f"{path}/{field}"


def test_a_definition_of_one_name_says_the_same_in_every_schema():
    said: dict[str, Any] = {}
    for name in names():
        for key, told in schema(name).get("$defs", {}).items():
            assert said.setdefault(key, told) == told, f"{key} of {name}"


def test_what_is_printed_says_its_kind_and_its_schema():
    numbered = {name for name in names() if "schema" in schema(name)["properties"]}
    assert numbered == NUMBERED
    for name in NUMBERED:
        found = schema(name)
        assert found["properties"]["schema"]["const"] == 1
        assert {"schema", "tool"} <= set(found["required"])
        if name != "manifest":
            assert found["properties"]["kind"]["const"] == name
            assert "kind" in found["required"]


def test_the_page_on_results_names_every_schema():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (.+?) \|.*`src/s3lora/report/schema/(\w+)\.json` \|$", page, re.M)
    assert sorted(name for _, name in told) == names()
    for kind, name in told:
        assert kind == (f"`{name}`" if name in NUMBERED - {"manifest"} else "(none)")


# --- as the code says

RECORDS = [
    ("rows", "", Row),
    ("rows", "replies", Replies),
    ("causal", "", CausalRow),
    ("causal", "first_order", Effect),
    ("causal", "alone", Effect),
    ("defences", "", Cost),
    ("defences", "settings", Settings),
    ("training", "settings", Settings),
    ("eval", "memory", Figure),
    ("eval", "asked/openings", Openings),
    ("calibrate", "parts/kappa", Figure),
    ("plan", "spent/worker", Spent),
    ("plan", "plan/faults", Fault),
]


@pytest.mark.parametrize(("name", "path", "record"), RECORDS)
def test_a_record_is_described_field_by_field(name, path, record):
    found, fields = at(name, path), [field.name for field in dataclasses.fields(record)]
    assert list(found["properties"]) == fields
    assert found["required"] == fields


def test_records_with_more_beside_them():
    fields = {kind: [f.name for f in dataclasses.fields(kind)] for kind in (Calibration, Step)}
    assert list(at("calibrate", "parts")["properties"]) == ["labels", *fields[Calibration]]
    assert list(at("plan", "plan/steps")["properties"]) == [*fields[Step], "id"]
    assert at("plan", "spent")["properties"].keys() == set(get_args(Part))
    for name in ("eval", "suite"):
        figure = [field.name for field in dataclasses.fields(Figure)]
        assert list(at(name, "states/figures")["properties"]) == ["key", "block", *figure]
        assert list(at(name, "differences")["properties"]) == ["a", "b", "key", *figure]


STATES = (evaluate.BARE, evaluate.WITH, evaluate.PLANNED)
CLOSED = [
    ("plan", "outcome", OUTCOMES),
    ("plan", "plan/faults/rule", get_args(Rule)),
    ("eval", "states/name", STATES),
    ("suite", "differences/a", STATES),
    ("replies", "state", STATES),
    ("replies", "kind", get_args(Side)),
    ("suite", "states/figures/block", get_args(Block)),
    ("calibrate", "parts/recall/better", get_args(Better)),
    ("scan", "findings/severity", SEVERITIES),
    ("compare", "modules/status", STATUSES),
]


@pytest.mark.parametrize(("name", "path", "values"), CLOSED)
def test_a_closed_list_has_the_values_of_the_code(name, path, values):
    assert set(at(name, path)["enum"]) == set(values)


# --- what is recorded already

KEPT = sorted(path for name in LINES for path in ROOT.glob(f"evidence/*/{name}.jsonl"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_studies_recorded_fits(path):
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, 50)]
    for row in rows:
        check(path.stem, row)
    with pytest.raises(ValidationError, match="'more' was unexpected"):
        check(path.stem, rows[0] | {"more": 1})
    Draft202012Validator(schema(path.stem)).validate(rows[0] | {"more": 1})
    for field in rows[0]:
        with pytest.raises(ValidationError, match=f"'{field}' is a required property"):
            check(path.stem, {key: value for key, value in rows[0].items() if key != field})


def test_there_is_something_recorded():
    assert {path.stem for path in KEPT} == set(LINES)
