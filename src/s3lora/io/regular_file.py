"""Files that may be hostile: only regular ones are read, and every failure is an error of ours.

What is not the file that was asked for, but stands in its place, is named: a pointer of Git LFS, a
page that a server sent instead, an archive.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from s3lora.errors import AdapterError

HINT = "download or save the adapter again; if it is someone else's, do not load it"
LFS = b"version https://git-lfs.github.com/spec/"
REPOSITORY = re.compile(r"models--.+")
"""What the folder of a model is called in the hub's cache."""
"""How a pointer of Git LFS begins."""


class Stamp(NamedTuple):
    """What changes of a file when somebody writes to it."""

    nbytes: int
    modified: int
    """Time of the last change of its bytes, in nanoseconds."""
    changed: int
    """Time of the last change of the file, its rights and names included."""


def stamp(fd: int) -> Stamp:
    """The stamp of an open file."""
    status = os.fstat(fd)
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def open_regular(path: Path) -> tuple[int, int]:
    """A file descriptor for reading and the size of a regular file; links are followed.

    Raises:
        AdapterError: if there is no such file, it may not be read, or it is a device or a pipe.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "check the path"
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            reason = "it is a link that leads to no file"
            hint = "download the adapter again: in the hub's cache, the file itself is missing"
        raise AdapterError(f"cannot open {path}: {reason}", hint=hint) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise AdapterError(f"{path} is not a regular file", hint="give a folder or a file")
    return fd, status.st_size


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system refuses while a file is read into an `AdapterError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise AdapterError(
            f"cannot read {path}: {reason}", hint="check the disk and the mount it is on"
        ) from error


def read_small(path: Path, most: int, hint: str) -> bytes:
    """A whole file of at most `most` bytes.

    Raises:
        AdapterError: if it cannot be opened or read, is no regular file, or is larger.
    """
    fd, size = open_regular(path)
    with open(fd, "rb") as file, reading(path):
        if size > most:
            raise AdapterError(f"{path} has {size} bytes, more than {most}", hint=hint)
        data = file.read(most + 1) or b""  # a file of the kernel's may have nothing to give yet
    if len(data) > most:
        raise AdapterError(f"{path} has more than {most} bytes", hint=hint)
    return data


def read_head(path: Path, length: int = 64) -> bytes:
    """The first bytes of a file, or all if it has fewer.

    Raises:
        AdapterError: if it cannot be opened or read, or is no regular file.
    """
    fd, _ = open_regular(path)
    with open(fd, "rb") as file, reading(path):
        return file.read(length) or b""


def close_quietly(fd: int) -> None:
    """Close a file that was only read: nothing can be lost by it, whatever the disk says."""
    with suppress(OSError):
        os.close(fd)


def stays_with(folder: Path, path: Path) -> bool:
    """Whether a file, with its links followed, lies in a folder or in the hub's cache of it.

    In the hub's cache `models--…/snapshots/REVISION/` holds links into `models--…/blobs/`.
    """
    own = Path(os.path.realpath(folder))
    repositories = (
        parent.parent
        for parent in own.parents
        if parent.name == "snapshots" and REPOSITORY.fullmatch(parent.parent.name)
    )
    blobs = (repository / "blobs" for repository in repositories)
    target = Path(os.path.realpath(path))
    homes = (own, *(blob for blob in blobs if not blob.is_symlink()))
    return any(target.is_relative_to(home) for home in homes)


def refuse_stand_in(path: Path, head: bytes) -> None:
    """Refuse a file of which the first bytes show that it is not what its name says.

    Args:
        path: The file.
        head: Its first bytes, 64 or more if it has them.

    Raises:
        AdapterError: if it is a pointer of Git LFS, a web page, a pickle or a GGUF file.
    """
    if head.startswith(LFS):
        raise AdapterError(
            f"{path} is a pointer of Git LFS, not the file itself",
            hint="`git lfs pull` in the repository fetches the file",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise AdapterError(
            f"{path} is a web page, not the file itself",
            hint="download the file itself, with the hub's own program or its download link",
        )
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise AdapterError(
            f"{path} is a pickle or an archive, whatever its name says",
            hint="do not load it: reading a pickle can run code that is in it",
        )
    if head.startswith(b"GGUF"):
        raise AdapterError(
            f"{path} is a GGUF file, whatever its name says",
            hint="give the adapter as PEFT saves it",
        )
