"""A run of the planner for people at a terminal, and as JSON, schema 1."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

from s3lora.lab.finite import json_text
from s3lora.lab.planner.records import record_of
from s3lora.lab.planner.trace import Part, Trace
from s3lora.report import tool
from s3lora.report.lines import Lines

LIBRARIES = ("torch", "transformers", "bm25s", "openai", "numpy")
INDENT = " " * 10
COUNTED = ("read", "written")

STYLES = {"answered": "bold green", "planned": "bold"}
"""Of outcomes; all others are told in yellow."""


def show(trace: Trace, labels: Mapping[Part, str], console: Console) -> None:
    """Print question, roles, plan, evidence, answer and cost."""
    lines = Lines(console)
    _say(lines, "question", trace.question, "bold")
    for part, label in labels.items():
        _say(lines, part, label)
    lines.say("")
    if trace.text is not None:
        lines.say("Plan and evidence", style="bold")
        _show_steps(trace, lines)
        lines.say("")
    _say(lines, "outcome", trace.outcome, STYLES.get(trace.outcome, "bold yellow"))
    _say(lines, "because", trace.reason)
    if trace.answer is not None:
        _say(lines, "answer", trace.answer.strip() or "(no text)", "bold")
    lines.say("")
    _show_cost(trace, console)


def _say(lines: Lines, name: str, text: str, style: str = "") -> None:
    """A name and what is to be told of it; every line of a text is printed."""
    for at, line in enumerate(text.splitlines() or [""]):
        lines.say(line, style=style, head=INDENT if at else f"{name:<10}", indent=INDENT)


def _show_steps(trace: Trace, lines: Lines) -> None:
    """The steps with what they found; of a plan that was not run, the text and its faults."""
    plan = trace.plan
    if plan is None or not plan.runnable:
        for line in (trace.text or "").splitlines() or ["(no text)"]:
            lines.say(line, head="  | ", indent="  | ")
        for fault in plan.faults if plan else ():
            where = f"line {fault.line}" if fault.line else "the text"
            lines.say(f"{where}: {fault.message}", style="yellow", head="  fault ", indent=INDENT)
        return
    for step in plan.steps:
        lines.say(step.plan, style="bold", head=f"  {step.placeholder:<4}", indent=" " * 6)
        lines.say(f"{step.tool}[{step.input}]", head=" " * 6, indent=" " * 8)
        found = trace.evidence.get(step.id)
        if found is None:
            lines.say("not run", style="dim", head="   -> ", indent=" " * 6)
            continue
        if found.input != step.input:
            lines.say(f"{step.tool}[{found.input}]", head="    = ", indent=" " * 8)
        style = "yellow" if found.failed else "green"
        lines.say(
            f"{found.text} ({found.seconds:.1f} s)", style=style, head="   -> ", indent=" " * 6
        )


def _show_cost(trace: Trace, console: Console) -> None:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("", min_width=9, no_wrap=True)
    for head in ("calls", "tokens read", "tokens written", "seconds"):
        grid.add_column(head, justify="right", no_wrap=True)
    for part, spent in trace.spent.items():
        mark = "≈" if spent.estimated else ""
        read, written = f"{mark}{spent.read}", f"{mark}{spent.written}"
        grid.add_row(part, str(spent.calls), read, written, f"{spent.seconds:.1f}")
    read, written = (sum(getattr(each, key) for each in trace.spent.values()) for key in COUNTED)
    grid.add_row("in all", "", str(read), str(written), f"{trace.seconds:.1f}")
    console.print(grid)


def render(trace: Trace, head: Mapping[str, Any]) -> str:
    """The run as JSON, with what it was made with in `head`; a limit that is none is null."""
    document = {
        "schema": 1,
        "kind": "plan",
        "tool": tool(),
        "versions": {"python": ".".join(map(str, sys.version_info[:3]))} | _versions(),
        **head,
        **record_of(trace),
    }
    return json_text(document)


def _versions() -> dict[str, str]:
    """Of the libraries that are there."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
