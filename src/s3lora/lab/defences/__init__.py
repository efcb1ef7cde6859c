"""Defences while training, by name. Listing them imports none of them.

A defence is a frozen dataclass whose fields are its parameters; `interface.py` says what it does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s3lora.errors import ParameterError
from s3lora.parameters import typed_values

if TYPE_CHECKING:
    from s3lora.lab.defences.interface import Defence

DEFENCES = {
    "salora": "s3lora.lab.defences.salora:Salora",
    "ema": "s3lora.lab.defences.ema:Ema",
    "lox": "s3lora.lab.defences.lox:Lox",
    "overlap": "s3lora.lab.defences.overlap:Overlap",
    "sharpness": "s3lora.lab.defences.sharpness:Sharpness",
}


def make_defence(name: str, params: Mapping[str, Any] | None = None) -> Defence:
    """A defence by name with its parameters set; text becomes the type of the parameter.

    Raises:
        ParameterError: if there is no such defence or parameter, or a value does not fit.
    """
    if name not in DEFENCES:
        raise ParameterError(f"there is no defence {name!r}", hint=f"one of {', '.join(DEFENCES)}")
    module, _, attribute = DEFENCES[name].partition(":")
    found: type[Defence] = getattr(importlib.import_module(module), attribute)
    return found(**typed_values(found, f"the defence {name!r}", params or {}))
