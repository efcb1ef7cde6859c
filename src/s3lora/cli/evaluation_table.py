"""An evaluation for people at a terminal: safety and utility together, state by state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s3lora.lab.evaluate import Difference, Evaluation, State
from s3lora.lab.evaluation_figures import Block
from s3lora.lab.metrics.intervals import Figure
from s3lora.report.escape import printable
from s3lora.report.lines import Lines

if TYPE_CHECKING:
    from s3lora.lab.suites.run import SuiteRun

NAMES = {
    "refusal_rate": "refusal rate",
    "attack_success": "1 − keyword refusal",
    "log_odds_harmful": "refusal log-odds",
    "margin_harmful": "refusal margin",
    "harmfulness_score": "harmfulness, judge",
    "harmfulness_rate": "share of 5, judge",
    "strongreject": "StrongREJECT, judge",
    "over_refusal": "over-refusal",
    "log_odds_harmless": "refusal log-odds",
    "margin_harmless": "refusal margin",
    "loss": "loss per token",
    "correct": "right",
    "auroc": "AUROC of entropy",
    "auarc": "AUARC",
    "ece": "ECE of exp(−entropy)",
    "entropy": "entropy of tokens",
    "refusal_rate_published": "refusal, published",
    "over_refusal_published": "over-refusal, publ.",
    "calls_anyway": "calls anyway",
}
"""Short names; the blocks' headings say the rest. Other figures keep their own."""

UNTOLD = ("attack_success", "auarc")
"""Figures whose notes are those of another."""

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
SUITE_HEADINGS: dict[Block, str] = {
    "safety": "Safety",
    "utility": "Utility",
    "cost": "Cost of a harmless task, by role",
}
NONE = "–"
NARROWEST = 15
"""Width of a state's column at least, in characters."""
UNBOUNDED = 10_000
"""A width that every table fits in."""
LARGE = 1000.0
"""From which on numbers are shown without decimals."""


def show(found: Evaluation, title: Mapping[str, str], scorer: str, console: Console) -> None:
    """Print all figures, the differences, and what must not be overlooked."""
    lines = Lines(console)
    _show_headline(found, lines)
    _show_title(title, lines)
    for block, about in _headings(found, scorer).items():
        _show_block(found.states, block, about, lines)
    if found.memory:
        lines.say(f"Peak memory {_number(found.memory)} MiB, {found.memory.note}.")
    _show_rest(found, lines)


def show_suite(found: SuiteRun, title: Mapping[str, str], console: Console) -> None:
    """Print the figures of a suite, the differences, and where the logs are."""
    lines = Lines(console)
    _show_headline(found, lines)
    _show_title(title, lines)
    sides = ", ".join(f"{count} {side}" for side, count in found.asked.items())
    for block, about in SUITE_HEADINGS.items():
        _show_block(found.states, block, f"{about}; prompts: {sides}", lines)
    _show_rest(found, lines)
    for name, log in found.logs.items():
        lines.say(log, head=f"log of {name}: ", indent="  ")


def _show_headline(found: Evaluation | SuiteRun, lines: Lines) -> None:
    """What has to be known before any figure is read."""
    if found.headline:
        lines.say(found.headline, style="bold red", head="WARNING ", indent="  ")


def _show_title(title: Mapping[str, str], lines: Lines) -> None:
    for name, value in title.items():
        if value:
            lines.say(value, style="bold", head=f"{name:<9}", indent=" " * 9)
    lines.say("Each figure with its 95 % interval; ↑ higher is better, ↓ lower is.")


def _show_rest(found: Evaluation | SuiteRun, lines: Lines) -> None:
    """The differences, then what must not be overlooked."""
    if found.differences:
        _show_differences(found.differences, lines)
    lines.say("")
    for note in (*found.notes, *_missing(found.states)):
        lines.say(f"{note}.", style="dim", head="Note: ", indent="  ")
    for warning in found.warnings:
        if warning != found.headline:  # which stands above
            lines.say(warning, style="bold red", head="WARNING ", indent="  ")


def _headings(found: Evaluation, scorer: str) -> dict[Block, str]:
    asked = found.asked
    right = "runnable, with the gold tools" if asked.plans else "ROUGE-1 above 0.5, a proxy"
    return {
        "safety": f"Safety, {len(asked.harmful)} harmful prompts (keywords: {scorer})",
        "utility": f"Utility, {len(asked.harmless)} harmless prompts",
        "certainty": f"Does it know when it is wrong? Right means {right}",
        "cost": "Cost; seconds for a small batch of prompts, then for each further token",
    }


def _show_block(states: Sequence[State], block: Block, about: str, lines: Lines) -> None:
    keys = _keys(states, block)
    if not keys:
        return
    lines.say("")
    lines.say(about, style="bold")
    rows = {key: [_figure_of(state, key) for state in states] for key in keys}
    _show_rows([state.name for state in states], rows, lines)


def _show_differences(differences: Sequence[Difference], lines: Lines) -> None:
    """Safety and utility differences, side by side for every pair of states."""
    pairs = list(dict.fromkeys((row.a, row.b) for row in differences))
    told = {(row.a, row.b, row.key): row for row in differences}
    for block, label in (("safety", "safety"), ("utility", "utility")):
        keys = list(dict.fromkeys(row.key for row in differences if row.block == block))
        if not keys:
            continue
        lines.say("")
        lines.say(f"Differences in {label}, paired by prompt", style="bold")
        rows = {key: [_figure_in(told.get((*pair, key))) for pair in pairs] for key in keys}
        _show_rows([f"{a} − {b}" for a, b in pairs], rows, lines, sign="+")


def _show_rows(
    heads: Sequence[str],
    rows: Mapping[str, Sequence[Figure | None]],
    lines: Lines,
    sign: str = "-",
) -> None:
    """A table with a column for each head, so laid out that no figure or interval is cut.

    Where the width is too small, intervals go below their figures, and then the columns that do
    not fit go into a further table.
    """
    console, start = lines.console, 0
    whole = console.options.update(width=UNBOUNDED)
    while start < len(heads):
        layouts = ((stop, joint) for stop in range(len(heads), start, -1) for joint in " \n")
        for stop, joint in layouts:
            part = slice(start, stop)
            cut = {key: figures[part] for key, figures in rows.items() if any(figures[part])}
            grid = _grid(heads[part], cut, joint, sign)
            if console.measure(grid, options=whole).maximum <= console.width:
                break
        if start:
            lines.say("")
        console.print(grid)
        start = stop


def _figure_of(state: State, key: str) -> Figure | None:
    found = state.result(key)
    return found.figure if found else None


def _figure_in(row: Difference | None) -> Figure | None:
    return row.figure if row else None


def _keys(states: Iterable[State], block: Block) -> list[str]:
    return list(
        dict.fromkeys(
            result.key for state in states for result in state.results if result.block == block
        )
    )


def _grid(
    heads: Sequence[str], rows: Mapping[str, Sequence[Figure | None]], joint: str, sign: str
) -> Table:
    cells = [_row(key, figures, joint, sign) for key, figures in rows.items()]
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("", overflow="fold", min_width=20)
    grid.add_column("n", justify="right", no_wrap=True)
    for at, head in enumerate(heads, 2):
        widest = max((len(line) for row in cells for line in row[at].split("\n")), default=0)
        folded = fill(printable(head), max(widest, NARROWEST))
        grid.add_column(Text(folded), no_wrap=True, min_width=NARROWEST)
    for row in cells:
        grid.add_row(*row)
    return grid


def _row(key: str, figures: Sequence[Figure | None], joint: str, sign: str) -> tuple[str, ...]:
    """Name, n, and a cell for each state."""
    known = [figure for figure in figures if figure]
    counts = sorted({figure.n for figure in known})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    name = NAMES.get(key, known[0].name) + ARROWS[known[0].better]
    return (name, n, *(_cell(figure, joint, sign) for figure in figures))


def _cell(figure: Figure | None, joint: str, sign: str) -> str:
    if figure is None or figure.value is None:
        return NONE
    ends = f"{joint}[{_number(figure, figure.low, sign)}, {_number(figure, figure.high, sign)}]"
    return _number(figure, figure.value, sign) + (ends if figure.low is not None else "")


def _number(figure: Figure, value: float | None = None, sign: str = "-") -> str:
    """A value of a figure with a true minus; seconds and large numbers in their own way."""
    value = figure.value if value is None else value
    if value is None:
        return NONE
    if figure.unit == "s":
        return f"{value:.4f} s"
    digits = (
        0 if abs(value) >= LARGE or isinstance(value, int) else 3 if "nats" in figure.unit else 2
    )
    rounded = round(value, digits) + 0.0
    return f"{rounded:{sign},.{digits}f}".replace("-", "−")


def _missing(states: Sequence[State]) -> list[str]:
    """Why a figure has no value, and how many samples are unscored; alike ones once."""
    told: dict[str, list[str]] = {}
    for state in states:
        for result in state.results:
            note = result.figure.note
            if note and result.block != "cost" and result.key not in UNTOLD:
                short = NAMES.get(result.key, result.figure.name)
                told.setdefault(f"{short}, {result.side}: {note}", []).append(state.name)
    return [f"{what} ({', '.join(names)})" for what, names in told.items()]
