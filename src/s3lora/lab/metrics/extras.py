"""Libraries that only the lab needs: imported when used, and asked for by name when missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from s3lora.errors import ParameterError, install_hint


def needed(module: str) -> Any:
    """A module of an optional library.

    Raises:
        ParameterError: if the library is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ParameterError(
            f"this needs {module.partition('.')[0]}",
            hint=install_hint("lab"),
        ) from error
