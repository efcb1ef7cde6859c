"""Where results go: a file or stdout; and a progress bar on stderr for a scan that takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s3lora.adapter import ModuleName
from s3lora.cli.streams import console
from s3lora.io.atomic import write_file
from s3lora.report import Result
from s3lora.report.formats import render, show

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 1.0
"""Seconds before a progress bar appears."""


def emit(result: Result, form: str, output: Path | None, *, verbose: bool) -> None:
    """Print a result in the form asked for, or write it to a file."""
    if form == "table":
        emit_table(lambda console: show(result, console, verbose=verbose), output)
    else:
        emit_text(render(result, form), output)


def emit_text(text: str, output: Path | None) -> None:
    """Write text to a file, or to stdout."""
    if output is None:
        click.echo(text, nl=False)
    else:
        write_file(output, text)
        click.echo(f"wrote {output}", err=True)


def emit_table(show: Callable[[Console], None], output: Path | None) -> None:
    """Print a table on stdout, or write it to a file without colour and 80 columns wide."""
    if output is None:
        show(console(sys.stdout))
        return
    buffer = StringIO()
    show(console(buffer, width=80, color_system=None))
    emit_text(buffer.getvalue(), output)


def track(names: Iterable[ModuleName]) -> Iterator[ModuleName]:
    """Hand the names on; on a terminal, show a bar on stderr once it takes more than a second."""
    names = tuple(names)
    if not sys.stderr.isatty():
        yield from names
        return
    started = time.monotonic()
    waiting = iter(names)
    for done, name in enumerate(waiting, 1):
        yield name
        if time.monotonic() - started > PATIENCE:
            yield from _with_bar(waiting, done, len(names))


def _with_bar(names: Iterator[ModuleName], done: int, total: int) -> Iterator[ModuleName]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("scanning", total=total, completed=done)
        for name in names:
            yield name
            progress.advance(task)
