"""Refusal at equal loss: a choice against random choices that cost as much of the task.

A choice of K modules can cost more of the task than random ones of as many. So it is held against
the random choices that cost the same: against the line through every module in place and the mean
random draw at each share, at the loss that was measured for the choice. The line ends at the
largest share; it is not drawn on to the aligned model, which would average in a range where
nothing was measured.

Where random choices cost no loss there is nothing to compare by, and no figure is given: little
loss divides, as noise, the whole of the gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s3lora.lab.metrics.intervals import Figure, missing
from s3lora.lab.study import rows as study
from s3lora.lab.study.analysis import Cells, pairs
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap, figure
from s3lora.lab.study.rows import LOSS, REFUSAL, Cell, Row
from s3lora.linalg import Array

NO_PRICE = "random choices cost no loss"
OUTSIDE = "outside of the losses of random choices"


@dataclass(frozen=True, slots=True)
class Price:
    """What an adapter has to trade; intervals are over its held-out rows."""

    adapter: str
    learned: Figure
    """By how much training lowered the loss on the held-out rows, in nats per token."""
    random: Mapping[float, Figure]
    """By share, by how much the mean random draw raises it again."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Those at which a comparison at equal loss can be made."""
        if not _clear(self.learned):
            return ()
        return tuple(share for share, cost in self.random.items() if _clear(cost))


def _clear(price: Figure) -> bool:
    """Whether it is above 0 and known to within half of itself."""
    return price.value is not None and price.low is not None and price.low > price.value / 2 > 0


@dataclass(frozen=True, slots=True)
class Gap:
    """What a choice gains over random choices that cost as much loss."""

    adapter: str
    method: str
    edit: str
    share: float
    k: int
    """How many modules are chosen."""
    gap: Figure
    """Refusal log-odds in nats; the interval is over prompts and held-out rows, both drawn again.

    Without a value where it cannot be judged; the note says why.
    """


def prices(rows: Sequence[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Price, ...]:
    """What there is to trade on each adapter that has both ends and random draws."""
    cells = study.by_cell(rows)
    return tuple(
        price
        for adapter in study.adapters(rows)
        if (price := _price(adapter, rows, _draws(cells, adapter), bootstrap))
    )


def _draws(cells: Cells, adapter: str) -> dict[float, tuple[Row, ...]]:
    """The random draws of an adapter by share, dropped; from few modules to many."""
    return {
        cell.share: group
        for cell, group in sorted(cells.items(), key=lambda item: item[0].share)
        if cell[:3] == (adapter, study.RANDOM, "drop")
    }


def _price(
    adapter: str, rows: Iterable[Row], draws: Mapping[float, tuple[Row, ...]], bootstrap: Bootstrap
) -> Price | None:
    ends = [study.reference(rows, adapter, name) for name in ("tuned", "aligned")]
    tuned, aligned = ([row] if row else [] for row in ends)
    if not (tuned and aligned and draws):
        return None
    costs = {share: _more(group, tuned, bootstrap) for share, group in draws.items()}
    return Price(adapter, _more(aligned, tuned, bootstrap), costs)


def _more(group: Sequence[Row], tuned: Sequence[Row], bootstrap: Bootstrap) -> Figure:
    """The loss of some rows beyond that of every module in place."""
    values = LOSS.items(group).mean(0) - LOSS.items(tuned).mean(0)
    samples = bootstrap.means(LOSS, [values], [tuned[0]])[:, 0]
    return figure("loss given up", samples, len(values), LOSS.unit, LOSS.better)


def gaps(rows: Sequence[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Gap, ...]:
    """Every choice on every adapter that has a price, in order of the cells."""
    cells = study.by_cell(rows)
    told = {price.adapter: price for price in prices(rows, bootstrap)}
    lines = {name: _line(cells, rows, name, bootstrap) for name in told}
    return tuple(
        Gap(*cell, own[0].k, _gap(cell, own, told[cell.adapter], lines[cell.adapter], bootstrap))
        for cell, (own, _) in pairs(cells).items()
        if cell.adapter in told
    )


def _line(
    cells: Cells, rows: Sequence[Row], adapter: str, bootstrap: Bootstrap
) -> tuple[Array, Array]:
    """Loss and refusal of every module in place and of the mean draws: (samples, points) each."""
    tuned = study.reference(rows, adapter, "tuned")
    groups = [(tuned,) if tuned else (), *_draws(cells, adapter).values()]
    loss, refusal = (bootstrap.of_groups(q, [g for g in groups if g]) for q in (LOSS, REFUSAL))
    return loss, refusal


def _gap(
    cell: Cell,
    own: Sequence[Row],
    price: Price,
    line: tuple[Array, Array],
    bootstrap: Bootstrap,
) -> Figure:
    name, unit, n = "refusal at equal loss", REFUSAL.unit, len(own[0].log_odds)
    if cell.share not in price.shares:
        return missing(name, unit, "higher", NO_PRICE, n)
    loss, refusal = (bootstrap.of_groups(q, [own])[:, 0] for q in (LOSS, REFUSAL))
    samples = refusal - interpolated(*line, loss)
    if np.isnan(samples[0]):
        return missing(name, unit, "higher", OUTSIDE, n)
    return figure(name, samples, n, unit, "higher")


def interpolated(x: Array, y: Array, at: Array) -> Array:
    """The piecewise linear line through points in order of x, at one place of each sample.

    Args:
        x: (samples, points), in any order.
        y: (samples, points).
        at: (samples,).

    Returns:
        (samples,); NaN where the place is below the least x or above the largest.
    """
    order = np.argsort(x, axis=1)
    x, y = (np.take_along_axis(values, order, axis=1) for values in (x, y))
    right = np.clip((x <= at[:, None]).sum(1), 1, x.shape[1] - 1)
    every = np.arange(len(x))
    x0, y0, x1, y1 = (v[every, i] for i in (right - 1, right) for v in (x, y))
    step = np.where(x1 > x0, x1 - x0, 1)
    inside = (x[:, 0] <= at) & (at <= x[:, -1])
    return np.asarray(np.where(inside, y0 + (y1 - y0) * (at - x0) / step, np.nan))
