"""The figures of a study: does the choice matter, at what loss, and the lines of the main table.

All is paired: a resample takes the same prompts, held-out rows and adapters for every method.
Prompts and adapters are crossed, every adapter having all prompts: both are drawn again, once each.
An adapter of another kind may have held-out rows of its own; an adapter's rows are all alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from s3lora.adapter import natural_key
from s3lora.lab.metrics.intervals import Figure, missing, wilson
from s3lora.lab.study import rows as study
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap, figure
from s3lora.lab.study.rows import BENIGN, LOSS, MARGIN, REFUSAL, Cell, Quantity, Row
from s3lora.linalg import Array

Cells: TypeAlias = Mapping[Cell, tuple[Row, ...]]
Pair: TypeAlias = tuple[tuple[Row, ...], tuple[Row, ...]]  # of a cell, and the draws for it
Groups: TypeAlias = Sequence[tuple[Row, ...]]  # of a cell, by adapter


@dataclass(frozen=True, slots=True)
class Versus:
    """One quantity of a choice against that of the random choices of as many modules."""

    mean: float
    """Over adapters and items, in nats per token."""
    difference: Figure
    """Less the mean of the draws; the interval is over items and adapters, the draws held fixed."""
    percentiles: tuple[float, ...]
    """By adapter, the share in % of draws that are worse, ties counted half: 100 is best."""
    wins: int
    """On how many adapters it is better than the median of the draws."""

    @property
    def percentile(self) -> float | None:
        """The mean over the adapters; None without draws."""
        return sum(self.percentiles) / len(self.percentiles) if self.percentiles else None


@dataclass(frozen=True, slots=True)
class Standing:
    """A method at one share of the modules, on one adapter or over several."""

    method: str
    edit: str
    share: float
    adapters: tuple[str, ...]
    k: int
    """How many modules of the first adapter are chosen."""
    draws: int
    """How many random choices each adapter has, at the least."""
    refusal: Versus
    loss: Versus


def standings(rows: Iterable[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Standing, ...]:
    """Where the choices on each adapter stand among the random ones, in order of the cells."""
    found = pairs(study.by_cell(rows))
    return tuple(_standing({cell: pair}, bootstrap) for cell, pair in found.items())


def pooled(rows: Iterable[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Standing, ...]:
    """The same over all adapters that have random draws for the cell, by method, edit and share."""
    groups: dict[tuple[str, str, float], dict[Cell, Pair]] = {}
    for cell, pair in pairs(study.by_cell(rows)).items():
        if pair[1]:
            groups.setdefault(cell[1:], {})[cell] = pair
    return tuple(_standing(groups[key], bootstrap) for key in sorted(groups))


def pairs(cells: Cells) -> dict[Cell, Pair]:
    """The rows of each cell with a choice, and the random draws it is held against."""
    return {
        cell: (rows, draws_for(cells, cell))
        for cell, rows in cells.items()
        if cell.method not in (study.RANDOM, *study.REFERENCES)
    }


def draws_for(cells: Cells, cell: Cell) -> tuple[Row, ...]:
    """The random draws at the same share: with the same edit if there are any, else dropped."""
    drawn = cell._replace(method=study.RANDOM)
    return cells.get(drawn, ()) or cells.get(drawn._replace(edit="drop"), ())


@dataclass(frozen=True, slots=True)
class Duel:
    """A method against another at the same share, paired by adapter and prompt."""

    method: str
    edit: str
    share: float
    wins: tuple[int, int]
    """On how many adapters its refusal log-odds are higher, of how many."""
    refusal: Figure
    """Its refusal log-odds less the rival's, in nats."""
    loss: Figure
    """Its loss less the rival's, in nats per token."""


def duels(
    rows: Iterable[Row], rival: str = "s3lora", bootstrap: Bootstrap = DEFAULT
) -> tuple[Duel, ...]:
    """Every choice against the rival's modules dropped, over the adapters that have both."""
    groups: dict[tuple[str, str, float], list[Pair]] = {}
    cells = study.by_cell(rows)
    for cell, (own, _) in pairs(cells).items():
        other = cells.get(cell._replace(method=rival, edit="drop"))
        if other and other != own:
            groups.setdefault(cell[1:], []).append((own, other))
    return tuple(_duel(key, groups[key], bootstrap) for key in sorted(groups))


def _duel(key: tuple[str, str, float], among: Sequence[Pair], bootstrap: Bootstrap) -> Duel:
    refusal, loss = (_versus(among, quantity, bootstrap) for quantity in (REFUSAL, LOSS))
    return Duel(*key, (refusal.wins, len(among)), refusal.difference, loss.difference)


def _standing(pairs: Mapping[Cell, Pair], bootstrap: Bootstrap) -> Standing:
    first, among = next(iter(pairs)), tuple(pairs.values())
    names, k = tuple(cell.adapter for cell in pairs), among[0][0][0].k
    draws = min(len(draws) for _, draws in among)
    refusal, loss = (_versus(among, quantity, bootstrap) for quantity in (REFUSAL, LOSS))
    return Standing(*first[1:], names, k, draws, refusal, loss)


def _versus(pairs: Sequence[Pair], quantity: Quantity, bootstrap: Bootstrap) -> Versus:
    mean = float(np.mean([quantity.means(own).mean() for own, _ in pairs]))
    name = f"difference of {quantity.field}"
    if not all(draws for _, draws in pairs):
        return Versus(mean, missing(name, quantity.unit, quantity.better, "no random draws"), (), 0)
    values = [quantity.items(a).mean(0) - quantity.items(b).mean(0) for a, b in pairs]
    samples = bootstrap.means(quantity, values, [own[0] for own, _ in pairs])
    turned = [[quantity.sign * quantity.means(rows) for rows in pair] for pair in pairs]
    return Versus(
        mean,
        figure(
            name, bootstrap.over_adapters(samples), len(values[0]), quantity.unit, quantity.better
        ),
        tuple(percentile(own, draws) for own, draws in turned),
        sum(bool(own.mean() > np.median(draws)) for own, draws in turned),
    )


def percentile(values: Array, draws: Array) -> float:
    """The mean mid-rank of values among draws, in %."""
    below, equal = (np.mean(test(draws, values[:, None])) for test in (np.less, np.equal))
    return float(100 * (below + equal / 2))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the main table: a reference, the random draws, or a method's choice."""

    method: str
    edit: str
    adapters: int
    """Over how many adapters the figures are means."""
    draws: int
    refusal: Figure | None
    margin: Figure | None
    benign: Figure | None
    loss: Figure | None
    spread: tuple[float | None, ...]
    """Standard deviation of these four over the draws, mean over adapters; None if not drawn."""
    refused: Figure | None
    """Share of the harmful prompts that are refused."""
    over_refused: Figure | None
    """Share of the harmless prompts that are refused."""


def main_lines(
    rows: Sequence[Row], names: Sequence[str], share: float, bootstrap: Bootstrap = DEFAULT
) -> tuple[Line, ...]:
    """The lines for some adapters: references, random, then methods; none without any row."""
    groups: dict[tuple[str, str], list[tuple[Row, ...]]] = {}
    for reference in study.REFERENCES:
        found = (study.reference(rows, name, reference) for name in names)
        groups[reference, ""] = [(row,) for row in found if row]
    for cell, group in sorted(study.by_cell(rows).items(), key=lambda item: _rank(item[0])):
        at_share = abs(cell.share - share) < 1e-9 and cell.method not in study.REFERENCES
        if at_share and cell.adapter in names:
            groups.setdefault((cell.method, cell.edit), []).append(group)
    return tuple(_line(*key, group, bootstrap) for key, group in groups.items() if group)


def _rank(cell: study.Cell) -> tuple[object, ...]:
    return cell.method != study.RANDOM, natural_key(cell.method), cell.edit


def _line(method: str, edit: str, groups: Groups, bootstrap: Bootstrap) -> Line:
    told = [_mean(groups, quantity, bootstrap) for quantity in (REFUSAL, MARGIN, BENIGN, LOSS)]
    means, spreads = zip(*told, strict=True)
    draws = min(len(group) for group in groups)
    rates = (_rate(groups, which) for which in ("harmful_refused", "harmless_refused"))
    refusal, margin, benign, loss = means
    return Line(method, edit, len(groups), draws, refusal, margin, benign, loss, spreads, *rates)


def _mean(
    groups: Groups, quantity: Quantity, bootstrap: Bootstrap
) -> tuple[Figure | None, float | None]:
    """Over draws, adapters and items, with the deviation; None unless every row has them."""
    if not all(getattr(row, quantity.field) for group in groups for row in group):
        return None, None
    samples = bootstrap.over_adapters(bootstrap.of_groups(quantity, groups))
    n = len(getattr(groups[0][0], quantity.field))
    told = figure(quantity.field, samples, n, quantity.unit, quantity.better)
    if min(map(len, groups)) < 2:
        return told, None
    return told, float(np.mean([quantity.means(group).std(ddof=1) for group in groups]))


def _rate(groups: Groups, which: str) -> Figure | None:
    """The mean share over rows, with Wilson's interval for the prompts of one row.

    All rows have the same prompts, so that more rows do not make more of them.
    """
    told = [getattr(row.replies, which) for group in groups for row in group if row.replies]
    scored = [known for flags in told if (known := [flag for flag in flags if flag is not None])]
    if not scored:
        return None
    share, n = float(np.mean([np.mean(flags) for flags in scored])), min(map(len, scored))
    return Figure(which, share, n, *wilson(round(share * n), n), "share", "neither")
