"""JSON from a file that may be hostile: no duplicate keys, no NaN, and bounded in memory and time.

What a document takes in memory is worked out from its bytes before it is parsed, and counted on
while it is: two bytes of a list can become a hundred.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from s3lora.errors import AdapterError

MAX_DEPTH = 64
"""How many objects and lists may lie inside one another; a config has four."""
MAX_MEMORY = 220 * 2**20
"""Most bytes that a parsed document may take: the scan of 50,000 modules takes 200 MB."""
MAX_FIELDS = 900_000
"""Most fields of all objects together: the scan of 50,000 modules has 850,000."""

# What CPython 3.11 takes for each, in bytes, with what is needed only while parsing.
PER_ITEM, PER_LIST, PER_TEXT, PER_FIELD, PER_OBJECT, PER_KEY = 40, 64, 56, 56, 200, 150

_NEGATIVE_ZERO = re.compile(r"-0(?![\d.eE])")
_WIDE = re.compile(rb"[\xf0-\xff]")
_WIDER_THAN_LATIN_1 = re.compile(rb"[\xc4-\xff]")


class RefusedError(ValueError):
    """What the JSON does that is allowed, or usual, elsewhere and not here."""


def parse(raw: bytes, what: str, *, marks: int, hint: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        raw: The bytes, UTF-8; a byte order mark before it is passed over.
        what: What is being parsed, for the message.
        marks: The most colons, commas, braces and brackets it may hold: that bounds the time.
        hint: What to do when it is refused.

    Raises:
        AdapterError: if it is not valid UTF-8, not valid JSON, not an object, nested too deeply,
            has more marks, would take more than `MAX_MEMORY`, or has a key twice, a number that
            is not finite, or the whole number -0, which readers take for different things.
    """
    try:
        return _parsed(raw.removeprefix(codecs.BOM_UTF8), marks)
    except RecursionError:
        why = "is nested too deeply"
    except RefusedError as error:
        why = str(error)
    except ValueError as error:
        why = f"is not valid JSON ({error})"
    raise AdapterError(f"{what} {why}", hint=hint)


def _parsed(raw: bytes, marks: int) -> dict[str, Any]:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RefusedError("is not valid JSON: it is written in UTF-16, JSON is UTF-8")
    counts = {mark: raw.count(mark) for mark in (b":", b",", b"{", b"[", b'"')}
    if sum(counts.values()) - counts[b'"'] > marks or counts[b":"] > MAX_FIELDS:
        raise RefusedError("has more entries than any adapter needs")
    value = strict_value(raw.decode(), taken=_estimate(raw, counts))
    if not isinstance(value, dict):
        raise RefusedError("is not a JSON object")
    return value


def strict_value(text: str, *, taken: int = 0) -> Any:
    """The value of a JSON text whose length and number of marks are bounded already.

    Args:
        text: The JSON.
        taken: How many bytes of `MAX_MEMORY` are taken by what is not an object.

    Raises:
        ValueError: if it is not valid JSON, nested too deeply, too large in memory, or has a key
            twice or a number that is refused; the message is what follows the name of the file.
        RecursionError: if it is nested far too deeply.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_Memory(taken).fields,
            parse_float=_finite,
            parse_int=_whole if _NEGATIVE_ZERO.search(text) else None,
            parse_constant=_constant,
        )
    except (RefusedError, json.JSONDecodeError):
        raise
    except ValueError as error:  # Python refuses to convert a whole number of thousands of digits
        most = sys.get_int_max_str_digits()
        raise RefusedError(f"holds a whole number of more than {most} digits") from error
    if _deeper(value, MAX_DEPTH):
        raise RefusedError("is nested too deeply")
    return value


def _estimate(raw: bytes, counts: dict[bytes, int]) -> int:
    """The bytes that all but the objects and their keys will take."""
    width = 1  # of a character, in memory
    if not raw.isascii() and _WIDER_THAN_LATIN_1.search(raw):
        width = 4 if _WIDE.search(raw) else 2
    texts = max(0, counts[b'"'] - 2 * counts[b":"]) // 2
    return (
        (1 + width) * len(raw)
        + PER_ITEM * counts[b","]
        + PER_LIST * counts[b"["]
        + PER_TEXT * texts
        + PER_FIELD * counts[b":"]
    )


class _Memory:
    """Makes the objects of a document, and counts what they take."""

    def __init__(self, estimate: int) -> None:
        self._spent = estimate
        self._keys: set[str] = set()
        self._spend(0)

    def _spend(self, nbytes: int) -> None:
        self._spent += nbytes
        if self._spent + PER_KEY * len(self._keys) > MAX_MEMORY:
            raise RefusedError("would take more memory than any adapter needs")

    def fields(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """An object of its fields, each of which may be there once."""
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise RefusedError(f"has the key {twice[:80]!r} twice")
        self._keys.update(fields)
        self._spend(PER_OBJECT)
        return fields


def _whole(digits: str) -> int:
    if digits == "-0":
        raise RefusedError("holds -0 where a whole number stands")
    return int(digits)


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
