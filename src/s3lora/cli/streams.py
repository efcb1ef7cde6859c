"""How a command ends: an error as two lines on stderr, and the exit status that says which kind.

A status of s3lora has a meaning, so a full disk or a reader that has gone must not end in that of
findings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import click

from s3lora._interrupt import INTERRUPTED
from s3lora.errors import S3LoraError
from s3lora.report.escape import printable

if TYPE_CHECKING:
    from rich.console import Console

NO_READER = 141
"""Exit status when whoever read stdout has gone, such as `head`: 128 and the number of SIGPIPE."""


@contextmanager
def ending() -> Iterator[None]:
    """Turn what goes wrong in the block into a message and an exit status.

    Raises:
        click.exceptions.Exit: with the status of the error, 2 for one of the system, 130 after
            Ctrl-C, 141 where nobody reads stdout any more.
    """
    lost: OSError | None = None
    try:
        try:
            yield
        finally:
            lost = _stdout_error()
            if lost is not None:
                raise lost
    except S3LoraError as error:
        say(f"error: {printable(str(error))}", f"hint: {printable(error.hint)}")
        status = error.exit_code
    except KeyboardInterrupt as error:
        say(f"interrupted: {printable(str(error))}" if str(error) else "interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        _give_up(sys.stdout)
        status = NO_READER
    except OSError as error:
        if lost is not None or not error.filename:
            what = "write to stdout" if lost is not None else "read or write"
        else:
            what = f"use {error.filename}"
        say(
            f"error: cannot {printable(what)}: {printable(error.strerror or str(error))}",
            "hint: check free space, the path and its permissions",
        )
        status = S3LoraError.exit_code
    else:
        return
    raise click.exceptions.Exit(status)


def console(stream: IO[str], **options: Any) -> Console:
    """A console that leaves a reader that has gone to the command; rich's own exits with 1."""
    from rich.console import Console  # slow to import, and JSON does not need it

    class StreamConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this where it handles a BrokenPipeError

    return StreamConsole(file=stream, highlight=False, **options)


def _stdout_error() -> OSError | None:
    """Why what was written to stdout does not arrive; None if it does.

    Such a stdout is given up, so that the interpreter does not stumble over it when it ends.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        _give_up(sys.stdout)
        return error if isinstance(error, OSError) else OSError(str(error))
    return None


def say(*lines: str) -> None:
    """Write lines to stderr; where that cannot be done there is nobody to tell."""
    try:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
    except (OSError, ValueError):
        _give_up(sys.stderr)


def _give_up(stream: IO[str]) -> None:
    """Let what is still to be written to a stream go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
