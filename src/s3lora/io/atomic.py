"""A file or folder appears whole or not at all, and never through a link."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from s3lora.errors import OutputError


@contextmanager
def new_folder(
    out: Path,
    *,
    replace: bool = False,
    private_as: Path | None = None,
    hint: str = "give a new path",
) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name when the block ends well.

    If the block fails, the temporary folder is removed and nothing else has changed. A process
    that is killed leaves it behind under the name `.NAME.XXXX.partial`. Only its owner can look
    into it before it has its name.

    Args:
        out: The folder to make; its parent is made if it is missing.
        replace: Move an `out` that is there already aside, to `NAME.old`, instead of refusing.
        private_as: A folder; what its group and others may not do there, they may not do here.
        hint: What to do if `out` exists.

    Raises:
        OutputError: if `out` is a link, exists and `replace` is off, or cannot be made.
    """
    _refuse_taken(out, replace, hint)
    partial = _partial(out)
    missing = [parent for parent in out.parents if not os.path.lexists(parent)]
    try:
        partial.mkdir(parents=True)
        mode = stat.S_IMODE(partial.stat().st_mode)
        _change_mode(partial, stat.S_IRWXU)
        yield partial
        for path in partial.iterdir():
            _sync(path)
        _change_mode(partial, mode)
        if private_as is not None:
            restrict(partial, private_as)
        _sync_folder(partial)
        _refuse_taken(out, replace, hint)
        _swap(partial, out)
    except OSError as error:
        _remove(partial, missing)
        raise _cannot(out, error) from error
    except BaseException:
        _remove(partial, missing)
        raise
    _sync_folder(out.parent)


def restrict(path: Path, source: Path) -> None:
    """Take from the group and from others what they may not do with the source.

    What is written gets the mode that the umask gives; what came from a private file stays private.
    """
    beyond = stat.S_IRWXG | stat.S_IRWXO
    allowed = stat.S_IMODE(source.stat().st_mode)
    _change_mode(path, stat.S_IMODE(path.stat().st_mode) & (allowed | ~beyond))


def _change_mode(path: Path, mode: int) -> None:
    """Set a mode, where the file system has modes."""
    with suppress(OSError):
        path.chmod(mode)


def _swap(partial: Path, out: Path) -> None:
    """Give `partial` the name `out`; what has that name is moved aside, or stays if this fails."""
    aside = _move_aside(out) if os.path.lexists(out) else None
    try:
        partial.rename(out)
    except BaseException:
        if aside and not os.path.lexists(out):
            aside.rename(out)
        raise


def _remove(partial: Path, parents: Iterable[Path]) -> None:
    """Undo the making of a temporary folder, and of the parents that were made for it."""
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):
        for parent in parents:
            parent.rmdir()


def write_file(out: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, a text as UTF-8.

    One that is there already is replaced, and its mode stays. What is no plain file, such as a
    pipe or a device, is never replaced: whoever reads from it would wait for ever.

    Raises:
        OutputError: if `out` is there and no plain file, or cannot be written.
    """
    if os.path.lexists(out) and (os.path.islink(out) or not os.path.isfile(out)):
        kinds = {"a link": os.path.islink, "a folder": os.path.isdir}
        what = next((kind for kind, fits in kinds.items() if fits(out)), "a pipe or a device")
        raise OutputError(
            f"{out} is {what}", hint="give the name of a file, or redirect what is printed"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(out)
        try:
            with partial.open("xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())  # some file systems find out only here that they are full
            if out.exists():
                _change_mode(partial, stat.S_IMODE(out.stat().st_mode))
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(out, error) from error


def _partial(out: Path) -> Path:
    """A name beside `out` that nothing has yet."""
    return out.with_name(f".{out.name}.{os.urandom(4).hex()}.partial")


def _refuse_taken(out: Path, replace: bool, hint: str) -> None:
    if os.path.islink(out):  # os.path answers no where a Path would raise: the name is too long
        raise OutputError(f"{out} is a link", hint="nothing is written through links: remove it")
    if not out.name or out.name == "..":
        raise OutputError(f"{out} is no name for a folder", hint="give the path of a new folder")
    if os.path.exists(out) and not (replace and os.path.isdir(out)):
        raise OutputError(f"{out} exists already", hint=hint)


def _move_aside(out: Path) -> Path:
    """Give the old folder the first free name of NAME.old, NAME.old.1, …"""
    aside, count = out.with_name(f"{out.name}.old"), 0
    while os.path.lexists(aside):
        count += 1
        aside = out.with_name(f"{out.name}.old.{count}")
    return out.rename(aside)


def _cannot(out: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {out}: {error.strerror or error}", hint="check permissions and free space"
    )


def _sync_folder(path: Path) -> None:
    """Have the names in a folder put on disk, where the system can do that."""
    with suppress(OSError):
        _sync(path)


def _sync(path: Path) -> None:
    """Have the system put a file or folder on disk, so that a crash cannot leave half of it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def reset_modes(folder: Path) -> None:
    """Give all files of a folder the mode that the umask gives to new ones.

    Libraries that write a file under another name first leave it to its owner alone.
    """
    probe = folder / f".{os.urandom(4).hex()}.partial"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
