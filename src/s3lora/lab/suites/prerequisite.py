"""Errors of ours as Inspect shows them: a message and no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError  # not public, and used by its extensions
from rich.markup import escape

from s3lora.errors import S3LoraError


@contextmanager
def shown_by_inspect() -> Iterator[None]:
    """Turn an error of ours into the one that Inspect prints for people.

    Raises:
        PrerequisiteError: with the message and the hint, caused by the error of ours.
    """
    try:
        yield
    except S3LoraError as error:
        raise PrerequisiteError(escape(f"error: {error}\nhint: {error.hint}")) from error
