"""A JSON object that is read field by field; what is missing or of another type is told by path."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from s3lora.errors import DataError

HINT = "give what s3lora scan, prune, rank or compare wrote with --format json"

REFUSED = "this is no result of s3lora: "


def refuse(why: str) -> NoReturn:
    """End the reading.

    Raises:
        DataError: always.
    """
    raise DataError(f"{REFUSED}{why}", hint=HINT)


class Fields:
    """The fields of one object.

    Every getter takes the field's name and, where an older document may lack it, what stands for
    it then; it raises `DataError` if the field is missing or not of the type.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            refuse(f"{path or 'the document'} is not an object")
        self.value: Mapping[str, Any] = value
        self.path = path

    def at(self, key: str) -> str:
        """Where a field is, for a message."""
        return f"{self.path}.{key[:80]}" if self.path else key[:80]

    def _get(self, key: str, kinds: type | tuple[type, ...], default: Any) -> Any:
        found = self.value.get(key, default)
        if found is MISSING:
            refuse(f"{self.at(key)} is missing")
        if found is default:
            return default
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(found, wanted) or (isinstance(found, bool) and bool not in wanted):
            names = " or ".join(NAMES[kind] for kind in wanted)
            refuse(f"{self.at(key)} is not {names}")
        return found

    def text(self, key: str, default: Any = ...) -> str:
        """A text."""
        return str(self._get(key, str, _given(default)))

    def whole(self, key: str, default: Any = ...) -> int:
        """A whole number that is not negative and fits 64 bits."""
        found = self._get(key, int, _given(default))
        if found < 0:
            refuse(f"{self.at(key)} is negative")
        if found >= 2**63:
            refuse(f"{self.at(key)} is too large")
        return int(found)

    def flag(self, key: str, default: Any = ...) -> bool:
        """True or false."""
        return bool(self._get(key, bool, _given(default)))

    def number(self, key: str) -> float:
        """A number that fits a float."""
        found: float = self._get(key, (float, int), MISSING)
        return _bounded(found, self.at(key))

    def maybe(self, key: str) -> float | None:
        """A number, or nothing."""
        found: float | None = self._get(key, (float, int, type(None)), MISSING)
        return found if found is None else _bounded(found, self.at(key))

    def one_of(self, key: str, choices: Collection[str]) -> Any:
        """One of some texts."""
        found = self.text(key)
        if found not in choices:
            refuse(f"{self.at(key)} is not one of {', '.join(choices)}")
        return found

    def fields(self, key: str, default: Any = ...) -> Fields:
        """An object."""
        return Fields(self._get(key, dict, _given(default)), self.at(key))

    def each(self, key: str, default: Any = ...) -> Iterator[Fields]:
        """The objects of a list."""
        for at, item in enumerate(self._get(key, list, _given(default))):
            yield Fields(item, f"{self.at(key)}[{at}]")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self._get(key, list, MISSING)
        if not all(isinstance(item, str) for item in found):
            refuse(f"{self.at(key)} holds what is not a text")
        return tuple(found)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        found = self._get(key, list, MISSING)
        if not all(type(item) in (int, float) for item in found):
            refuse(f"{self.at(key)} holds what is not a number")
        return tuple(_bounded(item, self.at(key)) for item in found)


def check_text(value: object) -> None:
    """See to it that every text in a document, keys too, is one that can be written again.

    JSON can hold half a character (a lone surrogate), which no encoding writes. A byte of a file's
    name that is no UTF-8 stands in it as U+DC80 to U+DCFF (PEP 383): that is let through.

    Raises:
        DataError: if one is not.
    """
    level = [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            level += [*item, *item.values()]
        elif isinstance(item, list):
            level += item
        elif isinstance(item, str):
            try:
                item.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                refuse("a text in it holds half a character")


MISSING: Any = object()
NAMES: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def _given(default: Any) -> Any:
    return MISSING if default is ... else default


def _bounded(number: float, path: str) -> float:
    """The number, if it fits a float."""
    try:
        fits = math.isfinite(number)
    except OverflowError:
        fits = False
    if not fits:
        refuse(f"{path} is too large")
    return number
