"""Many adapters at a terminal: each with a line of what was found, and what is odd about it."""

from __future__ import annotations

from rich.console import Console

from s3lora.errors import S3LoraError
from s3lora.report import Report
from s3lora.report.checked import Checked, Counts, Unfollowed
from s3lora.report.escape import printable
from s3lora.report.lines import Lines
from s3lora.report.table import show_findings, show_skipped, style_of
from s3lora.report.verdict import state

BEHIND = {
    "searched": "which is searched under its own name",
    "adapters": "where adapters are, or what cannot be looked into: check that folder too",
    "none": "where no adapter is",
}
"""What is said of a link by what is behind it."""


def show_report(report: Report, row: Checked, console: Console, *, verbose: bool = False) -> None:
    """Print what was found in one adapter."""
    lines = Lines(console)
    _show_ref(report.ref, lines)
    lines.say(state(report), style=style_of(report), indent="  ")
    show_findings(report.findings, lines, verbose=verbose)
    show_skipped(report, lines)
    for note in row.notes:
        lines.say(f"note: {note}", style="yellow", indent="  ")
    _show_accepted(row, lines)


def show_failure(row: Checked, error: S3LoraError, console: Console) -> None:
    """Print why nothing of one adapter was judged."""
    lines = Lines(console)
    _show_ref(row.ref, lines)
    what = "Cannot be judged" if error.exit_code == 3 else "Cannot be opened"
    lines.say(f"{what}: {error}", style="bold red", indent="  ")
    lines.say(f"hint: {error.hint}", indent="  ")
    _show_accepted(row, lines)


def show_link(link: Unfollowed, console: Console) -> None:
    """Print that a link was not followed."""
    lines = Lines(console)
    _show_ref(link.path, lines)
    text = f"Not followed: a link to {link.target}, {BEHIND[link.behind]}"
    lines.say(text, style="yellow" if link.status else "", indent="  ")
    if link.accepted:
        lines.say("Accepted by --accept.", indent="  ")


def show_counts(counts: Counts, console: Console) -> None:
    """Print the line that counts all."""
    Lines(console).say(counts.line(), style="bold", indent="  ")


def _show_accepted(row: Checked, lines: Lines) -> None:
    if row.accepted:
        lines.say("Accepted by --accept.", indent="  ")


def _show_ref(ref: str, lines: Lines) -> None:
    """The adapter, so that a line with it is the only one that does not begin with a blank."""
    lines.say(ref[1:], head=printable(ref[:1]), indent="  ")
