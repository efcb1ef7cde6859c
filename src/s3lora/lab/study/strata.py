"""Where a choice gets its gain from: which projections it takes, or which modules within them.

Single modules differ most by their projection. So a score may beat random choices only because it
takes, say, many of `o_proj`, which needs no score. With e_i the first-order effect of taking module
i out, the effects of a choice of K modules add up to

    Σ e_i = K·ē + Σ_p K_p·(ē_p − ē) + Σ_i (e_i − ē_p(i))

the mean random choice, what the numbers K_p by projection give beyond it, and what the choice
within the projections gives beyond those. How far adding up carries is told by the correlation of
the sums with what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from s3lora.lab.study.culprits import by_adapter, effects
from s3lora.lab.study.rows import LOSS, RANDOM, REFERENCES, REFUSAL, CausalRow, Cell, Row, by_cell
from s3lora.linalg import Array

Places: TypeAlias = NDArray[np.intp]

DRAWS = 4000
"""Random choices within the projections that a choice is held against."""


@dataclass(frozen=True, slots=True)
class Source:
    """The gain of one choice over random ones, by where it comes from; refusal log-odds in nats."""

    adapter: str
    method: str
    share: float
    measured: float | None
    """Its refusal less the mean of the random draws; None without draws."""
    predicted: float
    """By first-order effects: the sum of the next two."""
    between: float
    """From how many modules of each projection it takes."""
    within: float
    """From which ones."""
    percentile: float
    """Of `within` among random choices with the same number in each projection, in %."""


def sources(rows: Iterable[Row], causal: Iterable[CausalRow], seed: int = 0) -> tuple[Source, ...]:
    """Every choice of modules that were dropped, on every adapter with known effects."""
    modules, cells = by_adapter(causal), by_cell(rows)
    return tuple(
        _source(cell, group[0], _gain(cells, cell), modules[cell.adapter], seed)
        for cell, group in cells.items()
        if _chosen(cell) and cell.adapter in modules
    )


def _chosen(cell: Cell) -> bool:
    return cell.edit == "drop" and cell.method not in (RANDOM, *REFERENCES)


def _gain(cells: Mapping[Cell, tuple[Row, ...]], cell: Cell) -> float | None:
    draws = cells.get(cell._replace(method=RANDOM))
    if not draws:
        return None
    return float(REFUSAL.means(cells[cell]).mean() - REFUSAL.means(draws).mean())


def _source(
    cell: Cell, row: Row, measured: float | None, modules: Sequence[CausalRow], seed: int
) -> Source:
    gain = effects(modules, "first order")["refusal"]  # (modules,)
    places = np.array(row.chosen)
    groups = _groups(modules)
    mean = np.empty_like(gain)
    for group in groups:
        mean[group] = gain[group].mean()
    between = float((mean - gain.mean())[places].sum())
    within = float((gain - mean)[places].sum())
    drawn = _drawn(gain - mean, groups, places, seed)
    equal = np.isclose(drawn, within, atol=1e-9)
    percentile = float(100 * np.mean(np.where(equal, 0.5, drawn < within)))
    told = (measured, between + within, between, within, percentile)
    return Source(cell.adapter, cell.method, cell.share, *told)


def _groups(modules: Sequence[CausalRow]) -> list[Places]:
    """The places of the modules of each projection."""
    names = np.array([row.projection for row in modules])
    return [np.flatnonzero(names == name) for name in sorted(set(names.tolist()))]


def _drawn(rest: Array, groups: Sequence[Places], places: Places, seed: int) -> Array:
    """Σ over random choices with as many modules of each projection, shape (DRAWS,)."""
    random, total = np.random.default_rng(seed), np.zeros(DRAWS)
    for group in groups:
        count = int(np.isin(group, places).sum())
        order = random.random((DRAWS, len(group))).argsort(axis=1)[:, :count]
        total += rest[group][order].sum(axis=1)
    return total


@dataclass(frozen=True, slots=True)
class Additivity:
    """How well sums of first-order effects say what taking several modules out does."""

    adapter: str
    share: float
    cells: int
    """Random draws and choices alike."""
    refusal: Agreement
    loss: Agreement


@dataclass(frozen=True, slots=True)
class Agreement:
    """Measured changes against sums of effects."""

    pearson: float | None
    """None where there are fewer than three cells or nothing varies."""
    slope: float | None
    """Measured by predicted: below 1 where effects overlap, above 1 where they reinforce."""


def additivity(rows: Iterable[Row], causal: Iterable[CausalRow]) -> tuple[Additivity, ...]:
    """Measured against predicted changes from the tuned model, by adapter and share."""
    modules, groups = by_adapter(causal), dict[tuple[str, float], list[Row]]()
    for cell, group in by_cell(rows).items():
        if cell.adapter in modules and (_chosen(cell) or cell[1:3] == (RANDOM, "drop")):
            groups.setdefault((cell.adapter, cell.share), []).extend(group)
    return tuple(_additivity(key, modules[key[0]], groups[key]) for key in sorted(groups))


def _additivity(
    key: tuple[str, float], modules: Sequence[CausalRow], rows: Sequence[Row]
) -> Additivity:
    single = effects(modules, "first order")
    refusal, loss = (
        _agreement(np.array([single[name][list(row.chosen)].sum() for row in rows]), q.means(rows))
        for name, q in (("refusal", REFUSAL), ("loss", LOSS))
    )
    return Additivity(*key, len(rows), refusal, loss)


def _agreement(predicted: Array, measured: Array) -> Agreement:
    if len(predicted) < 3 or not np.ptp(predicted) or not np.ptp(measured):
        return Agreement(None, None)
    slope = float(np.polyfit(predicted, measured, 1)[0])
    return Agreement(float(np.corrcoef(predicted, measured)[0, 1]), slope)
