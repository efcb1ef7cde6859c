"""The front of a method: refusal log-odds over task loss, against that of random choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study import rows as study
from s3lora.lab.study.analysis import Cells, draws_for, pairs
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap, figure
from s3lora.lab.study.rows import LOSS, REFUSAL, Cell, Row
from s3lora.linalg import Array


@dataclass(frozen=True, slots=True)
class Front:
    """Margin over loss from tuned to aligned: a method's curve against that of the mean draw."""

    method: str
    edit: str
    adapters: tuple[str, ...]
    area: Figure
    """Between the curves where both have losses, in nats²; above 0: more refusal at equal loss."""
    height: Figure
    """The same over the width: the mean difference of log-odds at equal loss, in nats."""


def fronts(rows: Sequence[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Front, ...]:
    """The front of every method and edit on each adapter, then its mean over adapters."""
    cells = study.by_cell(rows)
    found: dict[tuple[str, str], dict[str, Array]] = {}
    for adapter, method, edit in dict.fromkeys(cell[:3] for cell in pairs(cells)):
        samples = _front(cells, Cell(adapter, method, edit, 0.0), bootstrap)
        if samples is not None:
            found.setdefault((method, edit), {})[adapter] = samples
    n = len(rows[0].log_odds) if rows else 0
    single = [(key, {a: s}) for key, by in found.items() for a, s in by.items()]
    single += [(key, by) for key, by in found.items() if len(by) > 1]
    return tuple(_mean_front(key, by, n, bootstrap) for key, by in single)


def _mean_front(
    what: tuple[str, str], by_adapter: Mapping[str, Array], n: int, bootstrap: Bootstrap
) -> Front:
    samples = np.array([*by_adapter.values()])  # (adapters, 2, samples)
    area, height = (bootstrap.over_adapters(samples[:, at].T) for at in (0, 1))
    told = ("area between the fronts", area, "nats²"), ("refusal at equal loss", height, "nats")
    figures = (figure(name, sample, n, unit, "higher") for name, sample, unit in told)
    return Front(*what, tuple(by_adapter), *figures)


def _front(cells: Cells, at: Cell, bootstrap: Bootstrap) -> Array | None:
    """Area and height in each sample, shape (2, samples); None if nothing can be compared.

    Only shares that both have count: more points would lift a curve that bends downwards.
    """
    own = {c.share: rows for c, rows in cells.items() if c[:3] == at[:3]}
    found = {share: draws_for(cells, at._replace(share=share)) for share in own}
    draws = {share: rows for share, rows in found.items() if rows}
    shares = list(draws)
    rows = [row for group in cells.values() for row in group]
    told = (study.reference(rows, at.adapter, name) for name in ("tuned", "aligned"))
    ends = [(row,) for row in told if row]
    if not shares or len(shares) + len(ends) < 2:
        return None
    sides = ([*(side[share] for share in shares), *ends] for side in (own, draws))
    curves = [bootstrap.of_groups(q, groups) for groups in sides for q in (LOSS, REFUSAL)]
    area, width = area_between(*curves)
    return np.array([area, area / np.where(width > 0, width, np.nan)]) if width[0] > 0 else None


def area_between(x: Array, y: Array, x_other: Array, y_other: Array) -> tuple[Array, Array]:
    """The area that one curve lies above another, and the width of the range that both cover.

    Piecewise linear through the points in order of x. Between two neighbouring points of either
    the difference is a straight line, so the midpoint rule is exact, also at jumps. All points are
    (samples, points), in any order, and the results (samples,), in the units of x·y and of x.
    """
    low = np.maximum(x.min(1), x_other.min(1))[:, None]
    high = np.maximum(np.minimum(x.max(1), x_other.max(1))[:, None], low)
    grid = np.sort(np.clip(np.hstack([x, x_other]), low, high), axis=1)
    middle = (grid[:, 1:] + grid[:, :-1]) / 2
    gap = _interpolated(x, y, middle) - _interpolated(x_other, y_other, middle)
    return (gap * np.diff(grid)).sum(1), (high - low)[:, 0]


def _interpolated(x: Array, y: Array, at: Array) -> Array:
    order = np.argsort(x, axis=1)
    x, y = (np.take_along_axis(values, order, axis=1) for values in (x, y))
    right = np.clip((x[:, None] <= at[:, :, None]).sum(2), 1, x.shape[1] - 1)
    (x0, y0), (x1, y1) = ([np.take_along_axis(v, i, 1) for v in (x, y)] for i in (right - 1, right))
    return np.asarray(y0 + (y1 - y0) * (at - x0) / np.where(x1 > x0, x1 - x0, 1))
