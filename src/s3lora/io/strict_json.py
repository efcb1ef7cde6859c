"""JSON from a file that may be hostile: no duplicate keys, no NaN, and bounded in structure."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from s3lora.errors import AdapterError


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

    def refuse(why: str) -> NoReturn:
        raise AdapterError(f"{what} {why}", hint=hint)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            refuse(f"has the key {twice[:80]!r} twice")
        return fields

    if sum(raw.count(mark) for mark in (b":", b",", b"{", b"[")) > marks:
        refuse("has more entries than any adapter needs")
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=unique,
            parse_constant=lambda name: refuse(f"holds {name}, which is not JSON"),
        )
    except RecursionError:
        refuse("is nested too deeply")
    except ValueError as error:
        refuse(f"is not valid JSON ({error})")
    if not isinstance(value, dict):
        refuse("is not a JSON object")
    return value
