"""Figures as JSON can hold them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np


def json_text(document: Any, indent: int | None = 1) -> str:
    """A document as JSON with a line end, null in place of NaN and Inf."""
    return json.dumps(finite(document), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """The value with None in place of NaN and Inf, and numpy's numbers as plain ones."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
