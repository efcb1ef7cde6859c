"""Two adapters side by side, for people at a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s3lora.report import Comparison
from s3lora.report.escape import printable
from s3lora.report.lines import Lines
from s3lora.report.verdict import verdict


def show(comparison: Comparison, console: Console, *, verbose: bool = False) -> None:
    """Print what differs between two adapters."""
    lines = Lines(console)
    lines.say(verdict(comparison), style="bold")
    lines.say("")
    for side, source in (("A", comparison.a), ("B", comparison.b)):
        lines.say(f"{side}  {source.ref}")
        if verbose:
            lines.say(f"sha256 {source.sha256}", style="dim", indent="   ")
    rows = comparison.rows
    shown = [row for row in rows if verbose or row.status != "same"]
    if not shown:
        return
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("module", overflow="fold")
    grid.add_column("status", no_wrap=True)
    for title in ("‖ΔW‖ A", "‖ΔW‖ B", "change"):
        grid.add_column(title, justify="right", no_wrap=True)
    for row in shown:
        figures = [row.norm_a, row.norm_b, row.change]
        grid.add_row(
            Text(printable(row.module)),
            row.status,
            *("" if figure is None else f"{figure:.3g}" for figure in figures),
        )
    lines.say("")
    console.print(grid)
    if len(shown) < len(rows):
        lines.say(f"{len(rows) - len(shown)} the same; -v shows them", style="dim")
