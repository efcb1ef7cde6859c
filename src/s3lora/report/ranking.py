"""Several methods side by side, for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
COLUMN = 17
"""About how wide a method's place and score are, in characters."""

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
    names = _by_mean_place(ranking.tables)
    shown = names if verbose else names[:SHOWN]
    lines.say("Place and score by each method, the lowest mean place first.")
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


def _by_mean_place(tables: Sequence[ScoreTable]) -> list[ModuleName]:
    """All modules that some method scored, the lowest mean place first."""
    found: dict[ModuleName, list[int]] = {}
    for table in tables:
        for name, place in places(table).items():
            found.setdefault(name, []).append(place)
    return sorted(found, key=lambda name: (sum(found[name]) / len(found[name]), natural_key(name)))


def _blocks(
    tables: Sequence[Named], width: int, names: Sequence[ModuleName]
) -> Iterator[Sequence[Named]]:
    """As many methods at a time as fit beside the names."""
    room = width - max((len(name) for name in names), default=0)
    count = max(1, room // COLUMN)
    for start in range(0, len(tables), count):
        yield tables[start : start + count]


def _places(tables: Sequence[Named], names: Sequence[ModuleName]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("module", overflow="fold")
    columns = []
    for label, table in tables:
        grid.add_column(Text(printable(label)), justify="right")
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
