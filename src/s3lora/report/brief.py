"""Many adapters at a terminal: each with a line of what was found, and what is odd about it."""

from __future__ import annotations

from rich.console import Console

from s3lora.errors import S3LoraError
from s3lora.report import Report
from s3lora.report.escape import printable
from s3lora.report.lines import Lines
from s3lora.report.table import show_findings, show_skipped, style_of
from s3lora.report.verdict import state


def show_report(report: Report, console: Console) -> None:
    """Print what was found in one adapter."""
    lines = Lines(console)
    _show_ref(report.ref, lines)
    lines.say(state(report), style=style_of(report), indent="  ")
    show_findings(report.findings, lines)
    show_skipped(report, lines)


def show_failure(ref: str, error: S3LoraError, console: Console) -> None:
    """Print why one adapter could not be opened."""
    lines = Lines(console)
    _show_ref(ref, lines)
    lines.say(f"Cannot be opened: {error}", style="bold red", indent="  ")
    lines.say(f"hint: {error.hint}", indent="  ")


def _show_ref(ref: str, lines: Lines) -> None:
    """The adapter, so that a line with it is the only one that does not begin with a blank."""
    lines.say(ref[1:], head=printable(ref[:1]), indent="  ")
