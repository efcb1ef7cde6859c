"""A scan for people at a terminal: verdict, findings, a map, and the top of the ranking.

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

from s3lora.findings import Finding
from s3lora.report import PlanFacts, Report
from s3lora.report.alike import EXAMPLES, alike
from s3lora.report.escape import printable
from s3lora.report.heat import show_heat
from s3lora.report.lines import Lines
from s3lora.report.verdict import verdict, worst
from s3lora.scores import Score
from s3lora.selection import robust_z

INDENT = " " * 9
"""Before what is said of a finding."""
COLOURS = {"high": "bold red", "medium": "yellow", "low": "dim"}
SHOWN_BEYOND_CHOSEN = 5
"""How many modules after the chosen ones are shown without -v."""


def show(report: Report, console: Console, *, verbose: bool = False) -> None:
    """Print a scan, or a plan to prune."""
    lines = Lines(console)
    lines.say(verdict(report), style=style_of(report))
    if verbose:
        _show_source(report, lines)
    show_findings(report.findings, lines, verbose=verbose)
    show_skipped(report, lines, verbose=verbose)
    if report.table.scores:
        lines.say("")
        if show_heat(report.table, console):
            lines.say("")
        _show_ranking(report, lines, verbose=verbose)
    if report.plan is not None:
        _show_plan(report.plan, lines)


def _show_source(report: Report, lines: Lines) -> None:
    lines.say("")
    lines.say(report.ref, style="bold")
    lines.say(
        f"{len(report.modules)} LoRA modules, {report.parameters:,} parameters, "
        f"{report.nbytes:,} bytes",
    )
    lines.say(f"base {report.base_model or 'not named'}", style="dim")
    lines.say(f"sha256 {report.sha256}", style="dim")


def style_of(report: Report) -> str:
    """The style of the verdict."""
    level = worst(report)
    return COLOURS[level] if level in ("high", "medium") else "bold"


def show_findings(findings: Sequence[Finding], lines: Lines, *, verbose: bool = False) -> None:
    """What is odd, in words, once for all places where it is so, and under it where.

    Three of many places are named; with `verbose` every one.
    """
    if findings:
        lines.say("")
    shown = [f for f in findings if verbose or f.severity != "low"]
    for row in alike(shown):
        head = f"  {row.severity:<6} "
        lines.say(row.message, style=COLOURS[row.severity], head=head, indent=INDENT)
        for where in row.places if verbose or len(row.places) <= EXAMPLES else [row.where]:
            lines.say(f"{row.rule}: {where}", style="dim", indent=INDENT)
    if len(shown) < len(findings):
        low = len(alike(findings)) - len(alike(shown))
        what = "1 low one is" if low == 1 else f"{low} low ones are"
        lines.say(f"  {what} listed with -v", style="dim")


def show_skipped(report: Report, lines: Lines, *, verbose: bool = False) -> None:
    """Modules without a score, gathered by reason; three of many are named, all with `verbose`."""
    if report.table.skipped:
        lines.say("")
    by_reason: dict[str, list[str]] = {}
    for row in report.table.skipped:
        by_reason.setdefault(row.reason, []).append(row.module)
    for reason, names in by_reason.items():
        lines.say(f"Not scored, {len(names)} of {len(report.modules)}: {reason}")
        shown = names if verbose or len(names) <= EXAMPLES else names[:EXAMPLES]
        for name in shown if len(names) < len(report.modules) else ["all modules"]:
            lines.say(name, style="dim", indent="  ")
        if len(shown) < len(names) < len(report.modules):
            lines.say(f"… {len(names) - len(shown)} more", style="dim", indent="  ")


def _show_ranking(report: Report, lines: Lines, *, verbose: bool) -> None:
    table, chosen = report.table, set(report.chosen)
    ranked = table.ranked()
    values = sorted(score.value for score in ranked)
    range_ = f": median {median(values):.4g}, from {values[0]:.4g} to {values[-1]:.4g}"
    lines.say(
        f"Scores by {_call(table.method, table.params)}, the {table.unsafe} ones first"
        + (range_ if verbose else ""),
    )
    last = max((at for at, score in enumerate(ranked, 1) if score.module in chosen), default=0)
    beyond = 0 if report.plan else SHOWN_BEYOND_CHOSEN
    shown = len(ranked) if verbose else min(len(ranked), last + beyond)
    lines.console.print(_ranking(report, ranked[:shown], chosen))
    if shown < len(ranked):
        lines.say(f"… {len(ranked) - shown} more; -v shows all", style="dim")
    told = _call(report.policy_name, report.policy_params)
    lines.say(f"{len(chosen)} of {len(ranked)} chosen (*) by {told}.")
    lines.say("A score is a reason to look at a module, no proof of harm.")


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
            "" if z is None else f"{z:.1f}" if abs(z) < 1e6 else f"{z:.4g}",
            "" if norm is None else f"{norm:.3g}",
            str(report.modules[score.module].rank),
        )
    return grid


def _show_plan(plan: PlanFacts, lines: Lines) -> None:
    dropped = sum(edit.name == "drop" for edit in plan.edits.values())
    zeroed = [name for name, edit in plan.edits.items() if edit.name == "zero"]
    lines.say("")
    edited = sum(edit.name == "replace" for edit in plan.edits.values())
    counts = {"leave": dropped, "stay with B = 0": len(zeroed), f"{plan.edit}": edited}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    fold = ", scales folded" if plan.fold_scale else ""
    lines.say(f"Plan for the target {plan.target}{fold}: {told or 'no module changes'}")
    for name in zeroed:
        lines.say(f"B = 0: {name}", style="dim", indent="  ")
    for note in plan.notes:
        lines.say(f"note: {note}", style="yellow", indent="  ")
