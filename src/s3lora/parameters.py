"""Parameters of methods and edits: the fields of a dataclass, given by name and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from s3lora.errors import ParameterError


def typed_values(kind: type, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values for the fields of a dataclass; text becomes the type of the field.

    Args:
        kind: The dataclass; its fields are annotated with str, int, float, bool or another type,
            whose values are passed on as they are.
        what: What the parameters are of, for the message.
        given: Values by name.

    Raises:
        ParameterError: if there is no such field, a value does not fit, or one without a default
            is not given.
    """
    if not dataclasses.is_dataclass(kind):
        raise ParameterError(
            f"{what} is no dataclass, so it cannot be given parameters",
            hint="docs/write-a-method.md says how a method is written",
        )
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            raise ParameterError(
                f"{what} has no parameter {key!r}",
                hint=f"its parameters: {', '.join(fields) or 'none'}",
            )
    for key, field in fields.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if key not in given and needed:
            raise ParameterError(f"{what} needs the parameter {key!r}", hint=f"give {key}=VALUE")
    return {key: _converted(key, value, fields[key].type) for key, value in given.items()}


KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
}
"""For the annotations of fields that are checked, the types that a value may have."""


def _converted(key: str, value: Any, kind: object) -> Any:
    """Text as the type that a field is annotated with; a value of another type is refused."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    try:
        if not isinstance(value, str):
            return _checked(value, KINDS.get(name, ()))
        match name:
            case "bool":
                return {"true": True, "false": False}[value.lower()]
            case "int":
                return int(value)
            case "float":
                return float(value)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ParameterError(
            f"{key}={value!r:.80} is not a value for this parameter", hint=f"it takes a {name}"
        ) from error
    return value


def _checked(value: Any, kinds: tuple[type, ...]) -> Any:
    """A value that is no text, if it is of one of the types; without types anything is.

    Raises:
        TypeError: if it is not; true and false are no numbers.
        OverflowError: if a whole number is too large for a field of floats.
    """
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise TypeError(kinds)
    if float in kinds:
        float(value)
    return value
