"""Progress of long work on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from rich.progress import Progress

Unit = Literal["steps", "cells", "prompts", "bytes"]

EVERY = 30.0
"""Seconds between plain lines, at the most, while the work goes on."""

REFRESH = 0.1
"""Seconds between two drawings of the bar."""


class Meter:
    """How far a piece of work is, its rate, and the time that is left; stdout stays empty.

    Args:
        label: What is counted, in the singular (`step`), or the name of what is downloaded.
        total: Where the count ends; None if that is not known.
        unit: Of the count, for the rate.
        first: The count that an earlier process reached; the rate is that of this process.
        tenths: Whether a line is due at each tenth of the total, besides every `EVERY` seconds.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: Unit = "steps",
        *,
        first: int = 0,
        tenths: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.first = first
        self.tenths = tenths
        self.clock = clock
        self._begin = self._last_line = clock()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Meter:
        """Show a bar if stderr is a terminal."""
        if sys.stderr.isatty():
            self._bar, self._task = _bar(self.label, self.total, self.first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away, so that what is printed next has a line of its own."""
        if self._bar:
            self._bar.stop()

    def update(self, count: int, note: str = "") -> None:
        """The work has come to `count`; `note` is what else there is to say, such as the loss."""
        if self._bar:
            status = "; ".join(part for part in (note, self.pace(count)) if part)
            self._bar.update(self._task, completed=count, status=status)
        elif self._line_due(count):
            self._last_line = self.clock()
            click.echo(self.line(count, note), err=True)

    def line(self, count: int, note: str = "") -> str:
        """Such as `step 20 of 80: loss 1.234; 2.1 steps/s, 0:00:28 left`."""
        if self.unit == "bytes":
            whole = f" of {_megabytes(self.total)}" if self.total else ""
            place = f"{self.label}: {_megabytes(count)}{whole}"
            return "; ".join(part for part in (place, note, self.pace(count)) if part)
        whole = f" of {self.total}" if self.total else ""
        behind = "; ".join(part for part in (note, self.pace(count)) if part)
        return f"{self.label} {count}{whole}" + (f": {behind}" if behind else "")

    def pace(self, count: int) -> str:
        """The rate, and the time that is left at that rate; nothing before there is a rate."""
        seconds = self.clock() - self._begin
        if seconds <= 0 or count <= self.first:
            return ""
        rate = (count - self.first) / seconds
        shown = f"{_megabytes(rate)}/s" if self.unit == "bytes" else _rate(rate, self.unit)
        if not self.total or count >= self.total:
            return shown
        return f"{shown}, {timedelta(seconds=round((self.total - count) / rate))} left"

    def _line_due(self, count: int) -> bool:
        if self.total and count >= self.total:
            return True
        if self.tenths and self.total and count % max(1, self.total // 10) == 0:
            return True
        return self.clock() - self._last_line >= EVERY


def _rate(rate: float, unit: str) -> str:
    """So many a second; below one, the seconds that each takes."""
    return f"{rate:.3g} {unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{unit[:-1]}"


def _megabytes(count: float | None) -> str:
    return f"{(count or 0) / 1e6:.1f} MB"


def _bar(label: str, total: int | None, first: int) -> tuple[Progress, Any]:
    from rich.console import Console  # slow to import, and no command without a bar needs it
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn(escape(label)),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %" if total else ""),
        TextColumn("{task.fields[status]}", markup=False),
    )
    bar = Progress(
        *columns,
        console=Console(file=sys.stderr),
        transient=True,
        refresh_per_second=1 / REFRESH,
    )
    bar.start()
    return bar, bar.add_task(label, total=total, completed=first, status="")
