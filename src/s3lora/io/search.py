"""Every adapter below some paths, in any layout, and what could not be looked into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s3lora.errors import AdapterError
from s3lora.io.layouts import WEIGHTS, refs_in
from s3lora.io.places import expanded

MOST_PEEKED = 1000
"""How many folders behind a link are looked at before it is said that there may be an adapter."""

Behind = Literal["searched", "adapters", "none"]
"""What is behind a link: a folder that is searched under its own name, adapters (or what could not
be looked into), or none."""


@dataclass(frozen=True, slots=True)
class Unopened:
    """A path that could not be looked into."""

    path: Path
    error: AdapterError


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a folder, which is not followed."""

    path: Path
    target: str
    """Where it leads, all links followed."""
    behind: Behind


@dataclass(frozen=True, slots=True)
class Hidden:
    """A folder that is not searched because its name begins with a dot."""

    path: Path


def search(paths: Iterable[Path]) -> Iterator[Path | Unopened | Link | Hidden]:
    """The adapters in some paths, each once, in order, and what was not looked into.

    A folder is searched without following links to folders; a file stands for the adapter that it
    belongs to. What cannot be read does not end the search.
    """
    starts = [expanded(path) for path in paths]
    roots = [Path(os.path.realpath(path)) for path in starts if os.path.isdir(path)]  # noqa: PTH112
    seen: set[str] = set()
    for path in starts:
        for item in _items(path, roots):
            place = os.path.abspath(item if isinstance(item, Path) else item.path)  # noqa: PTH100
            if place not in seen:
                seen.add(place)
                yield item


def _items(path: Path, roots: list[Path]) -> Iterator[Path | Unopened | Link | Hidden]:
    try:
        path.stat()
        if path.is_file():
            yield from _of_file(path)
            return
    except OSError as error:
        yield _unopened(path, error)
        return
    errors: list[OSError] = []
    for place, inner, names in os.walk(path, onerror=errors.append):
        while errors:  # of the folders before this one
            yield _unopened(Path(errors[0].filename or place), errors.pop(0))
        folder = Path(place)
        yield from refs_in(folder, names)
        yield from _links(folder, sorted([*inner, *names]), roots)
        for name in sorted(inner):
            if name.startswith("."):
                yield Hidden(folder / name)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
    while errors:
        yield _unopened(Path(errors[0].filename or path), errors.pop(0))


def _of_file(path: Path) -> Iterator[Path]:
    """The adapter that a file belongs to: itself, or its folder."""
    refs = refs_in(path.parent, [beside.name for beside in path.parent.iterdir()])
    if path in refs:
        yield path
    elif path.parent in refs:
        named = path.suffix == ".safetensors" and path.name != WEIGHTS
        yield path if named else path.parent


def _links(folder: Path, names: Iterable[str], roots: list[Path]) -> Iterator[Link | Unopened]:
    """The links to folders among some names, and those that may not be looked at."""
    for name in names:
        path = folder / name
        try:
            if path.is_symlink() and path.is_dir():
                target = Path(os.path.realpath(path))
                yield Link(path, str(target), _behind(target, roots))
        except OSError as error:
            yield _unopened(path, error)


def _behind(target: Path, roots: list[Path]) -> Behind:
    for root in roots:
        if target.is_relative_to(root):
            inner = target.relative_to(root).parts
            if not any(part.startswith(".") for part in inner):
                return "searched"
    errors: list[OSError] = []
    for count, (place, _, names) in enumerate(os.walk(target, onerror=errors.append)):
        if errors or count >= MOST_PEEKED or refs_in(Path(place), names):
            return "adapters"
    return "adapters" if errors else "none"


def _unopened(path: Path, error: OSError) -> Unopened:
    if isinstance(error, FileNotFoundError):
        hint = "give folders, or files of adapters"
        return Unopened(path, AdapterError(f"{path} does not exist", hint=hint))
    message = f"cannot look into {path}: {error.strerror or error}"
    return Unopened(path, AdapterError(message, hint="check the path and its rights"))
