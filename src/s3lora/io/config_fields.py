"""Fields of an adapter_config.json as typed values; what a field cannot be is refused by name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from s3lora.errors import AdapterError
from s3lora.io.patterns import is_plain
from s3lora.io.safetensors import MAX_TENSORS, name_fault

HINT = "an adapter needs the adapter_config.json that was saved with it"

MAX_RANK = 2**31
"""Ranks are below this; the shapes of the factors say which are true."""
MAX_KEY = 2**16
"""The longest key of a rank or alpha pattern, in characters."""
SHOWN = 120
"""How much of a text from a config a finding shows, in characters."""


def shown(text: str) -> str:
    """A text from a config as a finding shows it: its beginning, where it is long."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def refusal(field: str, value: object, wanted: str) -> AdapterError:
    """What is said of a field whose value is not the one wanted."""
    found = "is missing" if value is None else f"is {str(value)[:60]!r}"
    return AdapterError(f"adapter_config.json: {field} {found}, expected {wanted}", hint=HINT)


def rank(field: str, value: object) -> int:
    """A rank, above zero."""
    if type(value) is not int or not 0 < value < MAX_RANK:
        raise refusal(field, value, f"a whole number above zero and below {MAX_RANK}")
    return value


def number(field: str, value: object) -> float:
    """A finite number."""
    if type(value) not in (int, float):
        raise refusal(field, value, "a number")
    try:
        found = float(value)  # type: ignore[arg-type]
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise refusal(field, value, "a finite number")
    return found


def flag(raw: Mapping[str, Any], field: str) -> bool:
    """True or false; false if it is not set."""
    value = raw.get(field)
    if not isinstance(value, (bool, type(None))):
        raise refusal(field, value, "true or false")
    return bool(value)


def mapping(raw: Mapping[str, Any], field: str) -> dict[str, Any]:
    """An object; an empty one if it is not set."""
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise refusal(field, value, "an object")
    _refuse_long(field, value, MAX_TENSORS)
    for key in value:
        if len(key) > MAX_KEY:
            raise refusal(field, key, f"a pattern of at most {MAX_KEY} characters")
    return value


def listed(field: str, value: object, kind: type, most: int = MAX_TENSORS) -> tuple[Any, ...]:
    """A list of values of one kind; an empty one if it is not set."""
    if value is None:
        return ()
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise refusal(field, value, f"a list of {kind.__name__}")
    _refuse_long(field, value, most)
    return tuple(value)


def _refuse_long(field: str, value: Collection[object], most: int) -> None:
    if len(value) > most:
        raise AdapterError(
            f"adapter_config.json: {field} has {len(value)} entries, more than {most}", hint=HINT
        )


def names(
    raw: Mapping[str, Any], field: str, most: int = MAX_TENSORS, *, alone: bool = False
) -> tuple[str, ...]:
    """Plain names of at most 512 characters: a list or, where that is allowed, one alone."""
    value = raw.get(field)
    if alone and isinstance(value, str):
        value = [value] if value else None
    found: tuple[str, ...] = listed(field, value, str, most)
    for name in found:
        if not is_plain(name) or name_fault(name):
            raise refusal(field, name, "plain names")
    return found


def targets(raw: Mapping[str, Any], field: str) -> str | tuple[str, ...] | None:
    """A regular expression, or a list of names or their endings; None if it is not set."""
    value = raw.get(field)
    if value is None or isinstance(value, str):
        return value or None
    found: tuple[str, ...] = listed(field, value, str)
    for name in found:
        if name_fault(name):
            raise refusal(field, name, "names of modules")
    return found
