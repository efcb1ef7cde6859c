"""Values of a TOML file as dataclasses: each of its type, each key known, or told by its name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from s3lora.errors import ParameterError

T = TypeVar("T")

SHOWN = 60
"""How much of a wrong value is shown, in characters."""


def instance(
    kind: type[T], row: Mapping[str, Any], what: str, keys: Iterable[str] | None = None
) -> T:
    """A dataclass of a table's values; a list becomes a tuple.

    Args:
        kind: The dataclass. A whole number does for a float, nothing else for anything else.
        row: The table.
        what: What the table is called in messages.
        keys: Those that the table itself may have, for the hint; None: all fields.

    Raises:
        ParameterError: for a key that it does not have, one that is missing, or a value of another
            type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in row:
        refuse_unknown(what, key, fields)
    for key, field in fields.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and key not in row:
            raise ParameterError(
                f"{what} lacks {key!r}", hint=f"it takes {', '.join(keys or fields)}"
            )
    return kind(**{key: checked(kind, key, value, what) for key, value in row.items()})


def checked(kind: type, key: str, value: Any, what: str) -> Any:
    """A value for the field of a dataclass.

    Raises:
        ParameterError: if it is of another type.
    """
    try:
        return _adapter(kind, key).validate_python(_with_tuples(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{step}]" for step in first["loc"] if isinstance(step, int))
        expected = first["msg"].removeprefix("Input should be ")
        for kind_here, kind_there in (("valid tuple", "list"), ("valid dictionary", "table")):
            expected = expected.replace(kind_here, kind_there)
        raise ParameterError(
            f"{what} {key}{place} is {shown(first['input'])}, expected {expected}",
            hint=f"correct {key!r} in the file",
        ) from error


def refuse_unknown(what: str, key: str, known: Iterable[str], also: str = "") -> None:
    """Refuse a key that a table does not take, with the nearest one that it does.

    Raises:
        ParameterError: if it is not among those that are known.
    """
    names = list(known)
    if key in names:
        return
    near = get_close_matches(key, names, n=1)
    nearest = f"did you mean {near[0]!r}? " if near else ""
    more = f"; {also}" if also else ""
    raise ParameterError(
        f"{what} has no {key!r}", hint=f"{nearest}it takes {', '.join(names)}{more}"
    )


def table(value: Any, what: str) -> dict[str, Any]:
    """A table.

    Raises:
        ParameterError: if it is something else.
    """
    if not isinstance(value, dict):
        raise ParameterError(f"{what} is {shown(value)}, expected a table", hint=f"write {what}")
    return value


def tables(value: Any, what: str) -> list[dict[str, Any]]:
    """The tables of an array, such as `[[adapter]]`.

    Raises:
        ParameterError: if it is something else.
    """
    if not isinstance(value, list):
        raise ParameterError(
            f"{what} is {shown(value)}, expected an array of tables",
            hint=f"write {what}, in double brackets",
        )
    return [table(row, what) for row in value]


@cache
def _adapter(kind: type, key: str) -> TypeAdapter[Any]:
    config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    hint = get_type_hints(kind)[key]
    if dataclasses.is_dataclass(hint):  # made already
        return TypeAdapter(Any)
    return TypeAdapter(hint, config=config)


def shown(value: Any) -> str:
    """A value about as TOML has it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
