"""The published schemas, and what is held to them: here no field goes without being described."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = files("s3lora.report") / "schema"


def names() -> list[str]:
    """Of all schemas."""
    return sorted(file.name.removesuffix(".json") for file in FOLDER.iterdir())


def schema(name: str) -> dict[str, Any]:
    """A published schema, which lets fields be added."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def strict(value: Any) -> Any:
    """The schema without that leave: in this version's output every field has to be described."""
    if isinstance(value, list):
        return [strict(item) for item in value]
    if not isinstance(value, dict):
        return value
    closed = {"additionalProperties": False} if "properties" in value else {}
    return {key: strict(item) for key, item in value.items()} | closed


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(strict(schema(name)))


def check(name: str, document: Any) -> None:
    """Raise what does not fit."""
    _validator(name).validate(document)


def check_lines(name: str, text: str) -> list[dict[str, Any]]:
    """Every line of a file of JSON lines, read and checked; a file without any is none."""
    rows = [json.loads(line, parse_constant=_refuse) for line in text.splitlines()]
    assert rows
    for row in rows:
        check(name, row)
    return rows


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
