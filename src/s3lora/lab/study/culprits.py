"""Which modules take the refusals, and which score finds them: from their single effects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from s3lora.adapter import natural_key
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap, figure
from s3lora.lab.study.projection_type import type_scores
from s3lora.lab.study.rows import CausalRow, How
from s3lora.linalg import Array

ALL = "all"
HOWS: tuple[How, ...] = ("first order", "true removal", "kept alone")
TARGETS = ("refusal", "refusal per loss")
THIRDS = ("first third", "middle third", "last third")


def by_adapter(rows: Iterable[CausalRow]) -> dict[str, tuple[CausalRow, ...]]:
    """The modules of each adapter, both in natural order."""
    groups: dict[str, list[CausalRow]] = {}
    for row in sorted(rows, key=lambda row: (natural_key(row.adapter), natural_key(row.module))):
        groups.setdefault(row.adapter, []).append(row)
    return {adapter: tuple(group) for adapter, group in groups.items()}


def effects(rows: Sequence[CausalRow], how: How) -> dict[str, Array]:
    """What makes a module a culprit, each of shape (modules,); NaN where it was not measured.

    Taking it out raises refusal; by much for the loss it costs, which counts as at least a tenth of
    the mean absolute one.
    """
    told = [row.effect(how) for row in rows]
    pairs = [(e.log_odds, e.loss) if e else (np.nan, np.nan) for e in told]
    refusal, loss = np.array(pairs, dtype=np.float64).T
    known = max(np.sum(~np.isnan(loss)), 1)
    least = np.nansum(np.abs(loss)) / (10 * known)
    per_loss = refusal / np.maximum(loss, least) if least else np.full_like(refusal, np.nan)
    return {"refusal": refusal, "refusal per loss": per_loss, "loss": loss}


def constant_scores(rows: Iterable[CausalRow]) -> tuple[str, ...]:
    """The choices whose score is the same for all modules of every adapter: it chooses nothing."""
    groups, names = by_adapter(rows).values(), list[str]()
    for name in dict.fromkeys(name for group in groups for row in group for name in row.scores):
        columns = [{row.scores.get(name) for row in group} for group in groups if len(group) > 1]
        if columns and all(len(values) == 1 and None not in values for values in columns):
            names.append(name)
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Correlation:
    """How what is known of modules goes with what taking each of them out does."""

    adapter: str
    x: str
    """A score, turned so that high is the end to look at, or an effect by its first order."""
    how: How
    target: str
    """refusal · loss · refusal per loss: see `effects`."""
    scope: str
    """All modules, or those of one projection."""
    spearman: Figure
    """In [−1, 1], above 0 where high x goes with a high target; the interval is over modules."""
    pearson: Figure


def culprits(rows: Iterable[CausalRow], bootstrap: Bootstrap = DEFAULT) -> tuple[Correlation, ...]:
    """Every score against the effects, then the first-order effects against the measured ones."""
    groups = by_adapter(rows).values()
    return tuple(found for group in groups for found in _culprits(group, bootstrap))


def _culprits(group: Sequence[CausalRow], bootstrap: Bootstrap) -> Iterator[Correlation]:
    told = {how: effects(group, how) for how in HOWS}
    for name, values in _distinct(group):
        for how, target in (*product(HOWS[:1], TARGETS), (HOWS[1], TARGETS[0])):
            y = told[how][target]
            yield from _by_scope(group, (name, how, target), values, y, bootstrap)
    for how, target in product(HOWS[1:], ("refusal", "loss")):
        x, y = told["first order"][target], told[how][target]
        yield from _by_scope(group, ("first order", how, target), x, y, bootstrap)


def _distinct(group: Sequence[CausalRow]) -> Iterator[tuple[str, Array]]:
    """The scores by name, those by type of projection first: they are what others have to beat.

    What differs from one before by its edit alone has the same scores, and comes once.
    """
    yield from type_scores(group).items()
    seen: set[bytes] = set()
    for name in dict.fromkeys(name for row in group for name in row.scores):
        values = np.array([row.scores.get(name) for row in group], dtype=np.float64)
        if values.tobytes() not in seen:
            seen.add(values.tobytes())
            yield name, values


def _by_scope(
    group: Sequence[CausalRow], what: tuple[str, How, str], x: Array, y: Array, bootstrap: Bootstrap
) -> Iterator[Correlation]:
    projections = np.array([row.projection for row in group])
    known = ~np.isnan(x) & ~np.isnan(y)
    scopes = [ALL, *sorted(set(projections[known].tolist()))]
    for scope in scopes if known.any() else ():
        inside = known if scope == ALL else known & (projections == scope)
        n = int(inside.sum())
        counts = bootstrap.counts(n, "modules")
        ranked = _correlation(_ranks(x[inside], counts), _ranks(y[inside], counts), counts)
        plain = _correlation(x[inside], y[inside], counts)
        told = (("Spearman", ranked), ("Pearson", plain))
        figures = (figure(name, samples, n, "", "neither") for name, samples in told)
        yield Correlation(group[0].adapter, *what, scope, *figures)


def _ranks(values: Array, counts: Array) -> Array:
    """Mean ranks in each sample, (samples, modules), of values that are in it `counts` times."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    together = counts @ np.eye(len(sizes))[group]  # (samples, groups)
    return np.asarray((np.cumsum(together, axis=1) - (together - 1) / 2)[:, group])


def _correlation(x: Array, y: Array, counts: Array) -> Array:
    """Pearson's in each sample, shape (samples,); NaN where x or y is constant."""
    total = counts.sum(1, keepdims=True)
    x, y = (v - (counts * v).sum(1, keepdims=True) / total for v in (x, y))
    size = np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))
    flat = size <= 1e-12 * np.max(size)
    return np.asarray(np.where(flat, np.nan, (counts * x * y).sum(1) / np.where(flat, 1, size)))


@dataclass(frozen=True, slots=True)
class Part:
    """What share of the effects of all modules comes from some of them."""

    adapter: str
    how: How
    part: str
    """A projection, or one of `THIRDS` of the layers."""
    modules: int
    refusal: float | None
    """Share of the sum of absolute effects on the refusal, in [0, 1]; None if that is 0."""
    loss: float | None
    """The same for the loss."""


def parts(rows: Iterable[CausalRow]) -> tuple[Part, ...]:
    """The shares by projection and by third of the layers, over the modules measured."""
    found = []
    for adapter, group in by_adapter(rows).items():
        for how in HOWS:
            measured = [row for row in group if row.effect(how)]
            for name, members in _members(measured).items():
                refusal, loss = (_part(measured, members, how, of) for of in ("log_odds", "loss"))
                found.append(Part(adapter, how, name, len(members), refusal, loss))
    return tuple(found)


def _members(rows: Sequence[CausalRow]) -> dict[str, list[CausalRow]]:
    depths = sorted({row.layer for row in rows if row.layer is not None})
    third: dict[int | None, str] = {
        depth: THIRDS[3 * at // len(depths)] for at, depth in enumerate(depths)
    }
    names = [*sorted({row.projection for row in rows}), *dict.fromkeys(third.values())]
    return {n: [r for r in rows if n in (r.projection, third.get(r.layer))] for n in names}


def _part(
    rows: Sequence[CausalRow], members: Sequence[CausalRow], how: How, of: str
) -> float | None:
    total, part = (sum(abs(getattr(r.effect(how), of)) for r in some) for some in (rows, members))
    return part / total if total else None
