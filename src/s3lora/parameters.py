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


def _converted(key: str, value: Any, kind: object) -> Any:
    """Text as the type that a field is annotated with."""
    if not isinstance(value, str):
        return value
    try:
        match kind if isinstance(kind, str) else getattr(kind, "__name__", ""):
            case "bool":
                return {"true": True, "false": False}[value.lower()]
            case "int":
                return int(value)
            case "float":
                return float(value)
    except (KeyError, ValueError) as error:
        raise ParameterError(
            f"{key}={value!r} is not a value for this parameter", hint=f"it takes a {kind}"
        ) from error
    return value
