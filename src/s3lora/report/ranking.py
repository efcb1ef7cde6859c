"""Several methods side by side, for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s3lora.adapter import ModuleName, natural_key
from s3lora.agreement import places
from s3lora.report import Ranking
from s3lora.report.escape import printable
from s3lora.report.lines import Lines
from s3lora.report.verdict import verdict
from s3lora.scores import ScoreTable

SHOWN = 15
"""How many modules are shown without -v."""
CELL = 15
"""How wide a method's place and score are at most, in characters."""
GAP = 2
"""Between two columns."""
FEWEST = 20
"""Room for the names, in characters, before a method goes into a table of its own."""
BASELINES = frozenset(("random", "last-layers"))
"""Methods that look at no number of the adapter: to compare with, not to be averaged in."""

Named = tuple[str, ScoreTable]
"""A method's label, and its table."""


def show(ranking: Ranking, console: Console, *, verbose: bool = False) -> None:
    """Print the places of the modules by each method, and how far the methods agree."""
    lines = Lines(console)
    lines.say(verdict(ranking), style="bold")
    lines.say("")
    lines.say(ranking.ref)
    if verbose:
        lines.say(f"sha256 {ranking.source.sha256}", style="dim")
    judging = [table for table in ranking.tables if table.method not in BASELINES]
    names = _by_mean_place(judging or ranking.tables, ranking.tables)
    shown = names if verbose else names[:SHOWN]
    without = [table.method for table in ranking.tables if table.method in BASELINES]
    but = f" ({' and '.join(dict.fromkeys(without))} left out)" if judging and without else ""
    lines.say(f"Place and score by each method, the lowest mean place first{but}.")
    named = tuple(zip(ranking.labels, ranking.tables, strict=True))
    for block in _blocks(named, console.width, shown):
        lines.say("")
        console.print(_places(block, shown))
    if len(shown) < len(names):
        lines.say(f"… {len(names) - len(shown)} more; -v shows all", style="dim")
    for label, table in named:
        if table.skipped:
            lines.say(f"{label} has no score for {len(table.skipped)} modules", style="dim")
    if ranking.agreement:
        lines.say("")
        lines.say(
            f"Agreement: Spearman's correlation, and the share of the top {ranking.k} in both"
        )
        console.print(_matrix(ranking))


def _by_mean_place(judging: Sequence[ScoreTable], tables: Sequence[ScoreTable]) -> list[ModuleName]:
    """All modules that some method scored, the lowest mean place first.

    Args:
        judging: The methods whose places are averaged.
        tables: All methods; a module that only others scored comes last.
    """
    found: dict[ModuleName, list[int]] = {}
    for table in judging:
        for name, place in places(table).items():
            found.setdefault(name, []).append(place)
    rest = {name for table in tables for name in places(table)} - found.keys()
    ordered = sorted(found, key=lambda n: (sum(found[n]) / len(found[n]), natural_key(n)))
    return [*ordered, *sorted(rest, key=natural_key)]


def _blocks(
    tables: Sequence[Named], width: int, names: Sequence[ModuleName]
) -> Iterator[Sequence[Named]]:
    """As many methods at a time as fit beside the names."""
    longest = max((len(name) for name in names), default=0)
    count = max(1, (width - min(longest, max(FEWEST, width // 2))) // (CELL + GAP))
    for start in range(0, len(tables), count):
        yield tables[start : start + count]


def _places(tables: Sequence[Named], names: Sequence[ModuleName]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("module", overflow="fold")
    columns = []
    for label, table in tables:
        head = fill(printable(label), CELL) or " "
        grid.add_column(Text(head), justify="right", no_wrap=True)
        values = {score.module: score.value for score in table.scores}
        columns.append((places(table), values))
    for name in names:
        cells = [f"{p[name]:>4} {v[name]:>9.4g}" if name in p else "–" for p, v in columns]
        grid.add_row(Text(printable(name)), *cells)
    return grid


def _matrix(ranking: Ranking) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("method")
    grid.add_column("and", overflow="fold")
    for title in ("Spearman", "top in both", "modules"):
        grid.add_column(title, justify="right", no_wrap=True)
    for pair in ranking.agreement:
        spearman = "–" if pair.spearman is None else f"{pair.spearman:+.2f}"
        overlap = "–" if pair.overlap is None else f"{pair.overlap:.0%}"
        names = (Text(printable(name)) for name in (pair.a, pair.b))
        grid.add_row(*names, spearman, overlap, str(pair.modules))
    return grid
