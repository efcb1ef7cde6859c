"""No output goes over an input: what a command was given to read is never what it writes to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from s3lora.errors import OutputError
from s3lora.io.sources import CARD, CONFIG, MANIFEST

F = TypeVar("F", bound=Callable[..., Any])

NAMES = frozenset((CARD, CONFIG, MANIFEST, "config.json", "generation_config.json"))
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".jinja", ".py")
"""Files of these names in the folder of an adapter or a model are parts of it, not reports."""


def spares_inputs(option: str) -> Callable[[F], F]:
    """A decorator for a command: refuse its output `option` if that is one of its inputs.

    Every other value that names something on this machine counts as an input, also behind the
    `=` of KEY=PATH; a folder stands for the files of an adapter or a model in it.
    """

    def decorate(command: F) -> F:
        @wraps(command)
        def guarded(*args: Any, **values: Any) -> Any:
            output = values.get(option)
            if output is not None:
                others = (value for name, value in values.items() if name != option)
                refuse_inputs(Path(output), _paths(others))
            return command(*args, **values)

        return guarded  # type: ignore[return-value]

    return decorate


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """See to it that writing to a path replaces no input, under whatever name it has.

    Args:
        output: A file to be written, or a folder.
        inputs: Files and folders that are read.

    Raises:
        OutputError: if the output is an input, another link to the same bytes, a part of the
            adapter or model in a folder, or a folder that holds an input.
    """
    try:
        there = output.stat()
    except (OSError, ValueError):  # nothing is there, or no path: whoever writes will see
        return
    real = Path(os.path.realpath(output))
    for path in inputs:
        for part in _parts(path):
            if os.path.samestat(part.stat(), there):
                raise OutputError(
                    f"{output} is an input: {part}",
                    hint="inputs are never changed: write elsewhere",
                )
        if real.is_dir() and Path(os.path.realpath(path)).is_relative_to(real):
            raise OutputError(
                f"{output} holds the source {path}",
                hint="inputs are never moved: give a folder elsewhere",
            )


def _parts(path: Path) -> Iterator[Path]:
    """The files that an input stands for: itself, and what belongs to it in its folder or below."""
    if path.is_file():
        yield path
        yield from _belonging(path.parent, [beside.name for beside in path.parent.iterdir()])
    elif path.is_dir():
        for folder, _, names in os.walk(path):
            yield from _belonging(Path(folder), names)


def _belonging(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        if name in NAMES or name.endswith(SUFFIXES) or name.startswith("tokenizer"):
            path = folder / name
            if path.is_file():
                yield path


def _paths(values: Iterable[Any]) -> Iterator[Path]:
    """The values that name something that is there."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _paths(value)
        elif isinstance(value, str | Path) and str(value):
            for text in {str(value), str(value).rpartition("=")[2]} - {""}:
                path = Path(text)
                if os.path.lexists(path):
                    yield path
