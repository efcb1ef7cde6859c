"""The figures of a study against random choices, and against another method.

All is paired: a difference is taken on the same prompts, held-out rows and adapter. On one adapter
its interval is over prompts or rows, which are drawn again; over several it is Student's t over
the adapters, and over the independent data sets among them. An adapter of another kind may have
held-out rows of its own; an adapter's rows are all alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from s3lora.lab.metrics.intervals import Figure, missing
from s3lora.lab.study import rows as study
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.rows import BENIGN, LOSS, REFUSAL, Cell, Quantity, Row
from s3lora.lab.study.units import Difference, difference_of
from s3lora.linalg import Array

Cells: TypeAlias = Mapping[Cell, tuple[Row, ...]]
Pair: TypeAlias = tuple[tuple[Row, ...], tuple[Row, ...]]  # of a cell, and the draws for it

OWN_ROWS: Mapping[str, str] = MappingProxyType({})
"""Every adapter trained on rows of its own."""


@dataclass(frozen=True, slots=True)
class Versus:
    """One quantity of a choice against that of the random choices of as many modules."""

    mean: float
    """Over adapters and items, in nats per token."""
    difference: Figure
    """Less the mean of the draws, which is held fixed; intervals as in `Difference`."""
    by_data: Figure | None
    """The same over the data sets that several adapters were trained on."""
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
    harmless: Difference | None
    """Refusal log-odds on harmless prompts, less those of the draws; None: not measured."""
    specific: Difference | None
    """By how much more it gains on harmful prompts than on harmless ones."""


def standings(rows: Iterable[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Standing, ...]:
    """Where the choices on each adapter stand among the random ones, in order of the cells."""
    found = pairs(study.by_cell(rows))
    return tuple(_standing({cell: pair}, OWN_ROWS, bootstrap) for cell, pair in found.items())


def pooled(
    rows: Iterable[Row], bootstrap: Bootstrap = DEFAULT, sets: Mapping[str, str] = OWN_ROWS
) -> tuple[Standing, ...]:
    """The same over all adapters that have random draws for the cell, by method, edit and share.

    Args:
        rows: Of the study.
        bootstrap: For a cell that one adapter alone has.
        sets: The rows that each adapter was trained on, as in `units.data_sets`.
    """
    groups: dict[tuple[str, str, float], dict[Cell, Pair]] = {}
    for cell, pair in pairs(study.by_cell(rows)).items():
        if pair[1]:
            groups.setdefault(cell[1:], {})[cell] = pair
    return tuple(_standing(groups[key], sets, bootstrap) for key in sorted(groups))


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
    refusal: Difference
    """Its refusal log-odds less the rival's, in nats."""


def duels(
    rows: Iterable[Row],
    rival: str = "s3lora",
    bootstrap: Bootstrap = DEFAULT,
    sets: Mapping[str, str] = OWN_ROWS,
) -> tuple[Duel, ...]:
    """Every choice against the rival's modules dropped, over the adapters that have both."""
    groups: dict[tuple[str, str, float], dict[str, Pair]] = {}
    cells = study.by_cell(rows)
    for cell, (own, _) in pairs(cells).items():
        other = cells.get(cell._replace(method=rival, edit="drop"))
        if other and other != own:
            groups.setdefault(cell[1:], {})[cell.adapter] = (own, other)
    return tuple(_duel(key, groups[key], sets, bootstrap) for key in sorted(groups))


def _duel(
    key: tuple[str, str, float],
    among: Mapping[str, Pair],
    sets: Mapping[str, str],
    bootstrap: Bootstrap,
) -> Duel:
    wins = sum(_better_than_median(REFUSAL, pair) for pair in among.values())
    return Duel(*key, (wins, len(among)), _difference(among, REFUSAL, sets, bootstrap))


def _standing(
    by_cell: Mapping[Cell, Pair], sets: Mapping[str, str], bootstrap: Bootstrap
) -> Standing:
    first, among = next(iter(by_cell)), {cell.adapter: pair for cell, pair in by_cell.items()}
    own, _ = next(iter(among.values()))
    refusal, loss = (_versus(among, quantity, sets, bootstrap) for quantity in (REFUSAL, LOSS))
    harmless = specific = None
    sides = [side for pair in among.values() for side in pair]
    if all(side and all(row.benign_log_odds for row in side) for side in sides):
        harmless = _difference(among, BENIGN, sets, bootstrap)
        specific = _specific(among, sets, bootstrap)
    draws = min(len(draws) for _, draws in among.values())
    what = (*first[1:], tuple(among), own[0].k, draws)
    return Standing(*what, refusal, loss, harmless, specific)


def _versus(
    among: Mapping[str, Pair], quantity: Quantity, sets: Mapping[str, str], bootstrap: Bootstrap
) -> Versus:
    mean = float(np.mean([quantity.means(own).mean() for own, _ in among.values()]))
    if not all(draws for _, draws in among.values()):
        name = f"difference of {quantity.field}"
        none = missing(name, quantity.unit, quantity.better, "no random draws")
        return Versus(mean, none, None, (), 0)
    told = _difference(among, quantity, sets, bootstrap)
    turned = [[quantity.sign * quantity.means(rows) for rows in pair] for pair in among.values()]
    return Versus(
        mean,
        told.figure,
        told.by_data,
        tuple(percentile(own, draws) for own, draws in turned),
        sum(_better_than_median(quantity, pair) for pair in among.values()),
    )


def _better_than_median(quantity: Quantity, pair: Pair) -> bool:
    own, others = (quantity.sign * quantity.means(rows) for rows in pair)
    return bool(own.mean() > np.median(others))


def _difference(
    among: Mapping[str, Pair], quantity: Quantity, sets: Mapping[str, str], bootstrap: Bootstrap
) -> Difference:
    samples = {name: _samples(pair, quantity, bootstrap) for name, pair in among.items()}
    n = len(getattr(next(iter(among.values()))[0][0], quantity.field))
    name = f"difference of {quantity.field}"
    return difference_of(name, samples, n, quantity.unit, quantity.better, sets)


def _samples(pair: Pair, quantity: Quantity, bootstrap: Bootstrap) -> Array:
    own, others = pair
    value = quantity.items(own).mean(0) - quantity.items(others).mean(0)
    return np.asarray(bootstrap.means(quantity, [value], [own[0]])[:, 0])


def _specific(
    among: Mapping[str, Pair], sets: Mapping[str, str], bootstrap: Bootstrap
) -> Difference:
    samples = {
        name: _samples(pair, REFUSAL, bootstrap) - _samples(pair, BENIGN, bootstrap)
        for name, pair in among.items()
    }
    n = len(next(iter(among.values()))[0][0].benign_log_odds)
    name = "harmful less harmless"
    return difference_of(name, samples, n, REFUSAL.unit, REFUSAL.better, sets)


def percentile(values: Array, draws: Array) -> float:
    """The mean mid-rank of values among draws, in %."""
    below, equal = (np.mean(test(draws, values[:, None])) for test in (np.less, np.equal))
    return float(100 * (below + equal / 2))
