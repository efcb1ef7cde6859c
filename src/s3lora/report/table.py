"""The report for people at a terminal: verdict, findings, and the top of the ranking.

Nothing in it needs colour, and it reads well 80 columns wide. Text from a file is shown with its
control characters escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s3lora.compare import Difference
from s3lora.findings import SEVERITIES, Finding
from s3lora.prune import Plan
from s3lora.report import Report
from s3lora.scores import Score
from s3lora.selection import robust_z

COLOURS = {"high": "bold red", "medium": "yellow", "low": "dim"}
SHOWN_BEYOND_CHOSEN = 5
"""How many modules after the chosen ones are shown without -v."""


def printable(text: str) -> str:
    """The text with everything a terminal might act on escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print a scan, or a plan to prune."""
    _say(console, f"{report.ref}", style="bold")
    _say(
        console,
        f"{len(report.modules)} LoRA modules, {report.parameters:,} parameters, "
        f"{report.nbytes:,} bytes, base {report.base_model or 'not named'}",
    )
    _say(console, f"sha256 {report.sha256}", style="dim")
    console.print()
    _show_findings(report.findings, console, verbose=verbose)
    _show_skipped(report, console)
    if report.table.scores:
        _show_ranking(report, console, verbose=verbose)
    if report.plan is not None:
        _show_plan(report.plan, console)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(printable(text), style=style), soft_wrap=False)


def _show_findings(findings: Sequence[Finding], console: Console, *, verbose: bool) -> None:
    counts = {level: sum(f.severity == level for f in findings) for level in SEVERITIES}
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    _say(console, f"Findings about the files: {told or 'none'}")
    shown = [f for f in findings if verbose or f.severity != "low"]
    for finding in shown:
        head = Text(f"  {finding.severity:<6} ", style=COLOURS[finding.severity])
        head.append(f"{finding.rule}: {printable(finding.where)}", style="")
        console.print(head)
        _say(console, f"         {finding.message}", style="dim")
    if len(shown) < len(findings):
        _say(console, f"  {len(findings) - len(shown)} low ones are listed with -v", style="dim")


def _show_skipped(report: Report, console: Console) -> None:
    """Modules without a score, gathered by reason; none is left out."""
    by_reason: dict[str, list[str]] = {}
    for row in report.table.skipped:
        by_reason.setdefault(row.reason, []).append(row.module)
    for reason, names in by_reason.items():
        _say(console, f"Not scored, {len(names)} of {len(report.modules)}: {reason}")
        listed = names if len(names) < len(report.modules) else ["all modules"]
        for name in listed:
            _say(console, f"  {name}", style="dim")


def _show_ranking(report: Report, console: Console, *, verbose: bool) -> None:
    table, chosen = report.table, set(report.chosen)
    ranked = table.ranked()
    values = sorted(score.value for score in ranked)
    console.print()
    _say(console, f"Scores by {_call(table.method, table.params)}: the {table.unsafe} ones are")
    _say(
        console,
        f"the ones to look at; median {median(values):.4g}, "
        f"from {values[0]:.4g} to {values[-1]:.4g}",
    )
    last = max((at for at, score in enumerate(ranked, 1) if score.module in chosen), default=0)
    shown = len(ranked) if verbose else min(len(ranked), last + SHOWN_BEYOND_CHOSEN)
    console.print(_ranking(report, ranked[:shown], chosen))
    if shown < len(ranked):
        _say(console, f"… {len(ranked) - shown} more; -v shows all", style="dim")
    told = _call(report.policy_name, report.policy_params)
    _say(console, f"{len(chosen)} of {len(ranked)} chosen (*) by {told}.")
    _say(console, "A score is a reason to look at a module, no proof of harm.")


def _call(name: str, params: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    return f"{name}({shown})" if shown else name


def _ranking(report: Report, rows: Iterable[Score], chosen: Collection[str]) -> Table:
    deviations = robust_z(report.table)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("#", justify="right")
    grid.add_column("")
    grid.add_column("module", overflow="fold")
    for title in ("score", "z", "‖ΔW‖", "r"):
        grid.add_column(title, justify="right", no_wrap=True)
    for place, score in enumerate(rows, 1):
        z = deviations.get(score.module)
        norm = score.parts.get("frobenius")
        grid.add_row(
            str(place),
            "*" if score.module in chosen else "",
            Text(printable(score.module)),
            f"{score.value:.4f}" if abs(score.value) < 1000 else f"{score.value:.4g}",
            "" if z is None else f"{z:.1f}",
            "" if norm is None else f"{norm:.3g}",
            str(report.modules[score.module].rank),
        )
    return grid


def _show_plan(plan: Plan, console: Console) -> None:
    dropped = sum(edit.name == "drop" for edit in plan.edits.values())
    zeroed = [name for name, edit in plan.edits.items() if edit.name == "zero"]
    console.print()
    told = f"{dropped} modules leave" + (f", {len(zeroed)} stay with B = 0" if zeroed else "")
    fold = ", scales folded" if plan.fold_scale else ""
    _say(console, f"Plan for the target {plan.target}{fold}: {told}")
    for name in zeroed:
        _say(console, f"  B = 0: {name}", style="dim")
    for note in plan.notes:
        _say(console, f"  note: {note}", style="yellow")


def show_comparison(
    ref_a: str, ref_b: str, rows: Sequence[Difference], console: Console, *, verbose: bool = False
) -> None:
    """Print what differs between two adapters."""
    _say(console, f"A  {ref_a}", style="bold")
    _say(console, f"B  {ref_b}", style="bold")
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    _say(console, ", ".join(f"{count} {status}" for status, count in counts.items()))
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
    console.print()
    console.print(grid)
    if len(shown) < len(rows):
        _say(console, f"{len(rows) - len(shown)} the same; -v shows them", style="dim")
