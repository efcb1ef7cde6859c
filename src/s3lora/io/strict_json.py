"""JSON from a file that may be hostile: no duplicate keys, no NaN, and bounded in structure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from s3lora.errors import AdapterError

MAX_DEPTH = 64
"""How many objects and lists may lie inside one another; a config has four."""


class RefusedError(ValueError):
    """What the JSON does that is allowed, or usual, elsewhere and not here."""


def parse(raw: bytes, what: str, *, marks: int, hint: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        raw: The bytes, UTF-8.
        what: What is being parsed, for the message.
        marks: The most colons, commas, braces and brackets it may hold: that bounds the memory.
        hint: What to do when it is refused.

    Raises:
        AdapterError: if it is not valid UTF-8, not valid JSON, not an object, nested too deeply,
            has more marks, a key twice, or a number that is not finite.
    """
    try:
        return _parsed(raw, marks)
    except RecursionError:
        why = "is nested too deeply"
    except RefusedError as error:
        why = str(error)
    except ValueError as error:
        why = f"is not valid JSON ({error})"
    raise AdapterError(f"{what} {why}", hint=hint)


def _parsed(raw: bytes, marks: int) -> dict[str, Any]:
    if sum(raw.count(mark) for mark in (b":", b",", b"{", b"[")) > marks:
        raise RefusedError("has more entries than any adapter needs")
    value = strict_value(raw.decode())
    if not isinstance(value, dict):
        raise RefusedError("is not a JSON object")
    return value


def strict_value(text: str) -> Any:
    """The value of a JSON text that is not hostile in number of entries.

    Raises:
        ValueError: if it is not valid JSON, nested too deeply, or has a key twice or a number that
            is not finite; the message is what follows the name of the file.
        RecursionError: if it is nested far too deeply.
    """
    value = json.loads(
        text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant
    )
    if _deeper(value, MAX_DEPTH):
        raise RefusedError("is nested too deeply")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise RefusedError(f"has the key {twice[:80]!r} twice")
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RefusedError(f"holds {digits[:40]}, which is no finite number")
    return number


def _constant(name: str) -> NoReturn:
    raise RefusedError(f"holds {name}, which is not JSON")


def _deeper(value: Any, depth: int) -> bool:
    """Whether more than `depth` objects and lists lie inside one another."""
    level: list[Any] = [value] if type(value) in (dict, list) else []
    for _ in range(depth):
        level = [item for holder in level for item in _items(holder) if type(item) in (dict, list)]
    return bool(level)


def _items(holder: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return holder.values() if isinstance(holder, dict) else holder
