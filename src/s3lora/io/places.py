"""Where an adapter lies: what a path stands for, the hub's cache, the adapters below a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from s3lora.adapter import natural_key
from s3lora.errors import AdapterError
from s3lora.io.layouts import CONFIG, PARTIAL, WEIGHTS, interrupted
from s3lora.io.regular_file import read_small

MAX_REVISION = 200
"""Longest name of a revision in the hub's cache, in characters."""
MOST_FOLDERS = 2000
"""How many folders are looked at below one that holds no adapter."""
DEEPEST = 4
"""How far below: `models--…/snapshots/REVISION/default`."""
MOST_SHOWN = 8
"""How many adapters an error lists by name."""

_REVISION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


def expanded(ref: str | os.PathLike[str]) -> Path:
    """The path that a reference means, with `~` for the user's own folder."""
    path = Path(ref)
    if str(path).startswith("~") and not os.path.lexists(path):
        return Path(os.path.expanduser(path))  # noqa: PTH111, unlike Path's it never fails
    return path


def snapshot_of(folder: Path) -> Path:
    """The snapshot that a folder of the hub's cache stands for; any other folder is itself.

    `models--OWNER--NAME` and its `snapshots` stand for the revision that `refs/main` names, or for
    the only one there is.

    Raises:
        AdapterError: if that one is not there, or there are several and none is the main one.
    """
    root = folder.parent if folder.name == "snapshots" else folder
    snapshots, main = root / "snapshots", root / "refs" / "main"
    if not snapshots.is_dir() or not ((root / "refs").is_dir() or (root / "blobs").is_dir()):
        return folder
    if os.path.lexists(main):
        raw = read_small(main, MAX_REVISION, "download the adapter again")
        revision = raw.decode("utf-8", "replace").strip()
        if not _REVISION.fullmatch(revision) or not (snapshots / revision).is_dir():
            raise AdapterError(
                f"{main} names the revision {revision!r}, which is not in {snapshots}",
                hint="download the adapter again",
            )
        return snapshots / revision
    revisions = sorted(path for path in snapshots.iterdir() if path.is_dir())
    if len(revisions) == 1:
        return revisions[0]
    raise AdapterError(
        f"{root} is in the hub's cache and has {len(revisions)} snapshots, none of them the main "
        f"one{_listed(path.name for path in revisions)}",
        hint=f"give one of the folders in {snapshots}",
    )


def refuse_interrupted(folder: Path) -> None:
    """Refuse a folder without weights beside which the hub's program left half a download."""
    places = [folder / ".cache" / "huggingface" / "download", folder]
    if folder.parent.name == "snapshots":
        places.append(folder.parent.parent / "blobs")
    for place in places:
        names = sorted(file.name for file in place.iterdir()) if place.is_dir() else []
        for name in names:
            if name.endswith(PARTIAL) and (place != folder or "safetensors" in name):
                raise interrupted(place / name)


def refuse_outer(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder without an adapter of its own by those that lie below it, or by its model.

    Raises:
        AdapterError: always.
    """
    below = sorted(_below(folder), key=lambda path: natural_key(str(path)))
    if below:
        one = f"{len(below)} lie" if len(below) > 1 else "one lies"
        raise AdapterError(
            f"{folder} holds no {WEIGHTS} itself; {one} below it{_listed(map(str, below))}",
            hint=f"give the folder of one: {folder / below[-1]}",
        )
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        raise AdapterError(
            f"{folder} holds no {WEIGHTS}: it is a whole model, not an adapter",
            hint="give an adapter; a model is what --base takes",
        )
    if CONFIG in names:
        raise AdapterError(
            f"{folder} holds no {WEIGHTS}, only its {CONFIG}",
            hint="download the weights too: they are a file of their own",
        )
    raise AdapterError(
        f"{folder} holds no {WEIGHTS}", hint="give the folder that PEFT's save_pretrained wrote"
    )


def config_hint(folder: Path, hint: str) -> str:
    """What to do about a folder whose weights have no config: it may lie in the one above."""
    above = Path(os.path.abspath(folder)).parent / CONFIG  # noqa: PTH100, links are not followed
    if not above.is_file():
        return hint
    return f"{above} may be its config: copy it beside the weights if it is"


def _below(folder: Path) -> list[Path]:
    """The folders of adapters below a folder, relative to it; links are not followed."""
    paths = []
    for count, (place, inner, names) in enumerate(os.walk(folder)):
        relative = Path(place).relative_to(folder)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if len(relative.parts) >= DEEPEST or count >= MOST_FOLDERS:
            inner.clear()
        if relative.parts and not {WEIGHTS, "adapter_model.bin"}.isdisjoint(names):
            paths.append(relative)
    return paths


def _listed(names: Iterable[str]) -> str:
    """Names after a colon, the first few of them."""
    rows = list(names)
    shown = ", ".join(rows[:MOST_SHOWN])
    more = f" and {len(rows) - MOST_SHOWN} more" if len(rows) > MOST_SHOWN else ""
    return f": {shown}{more}" if rows else ""
