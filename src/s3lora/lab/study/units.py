"""Means over adapters, with Student's t intervals: over adapters, and over independent data sets.

Adapters are few. A percentile bootstrap over six of them covers the mean in 81 to 86 of 100 cases
where it promises 95; Student's t keeps the promise where their values are roughly normal. Adapters
that were trained on the same rows are no independent units: the mean over data sets counts them as
one, with their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from s3lora.lab.metrics.intervals import Better, Figure
from s3lora.lab.study.bootstrap import figure
from s3lora.lab.study.parts import Trained
from s3lora.linalg import Array

LEVEL: Final = 0.95

ROWS_OF: Final = {"harmless": "harmless rows", "mixed": "harmless rows"}
"""Recipes that draw from one pool of rows; every other recipe has rows of its own."""


def data_sets(adapters: Sequence[Trained]) -> dict[str, str]:
    """The rows that each adapter of a study was trained on, by name of the adapter."""
    return {trained.name: ROWS_OF.get(trained.recipe, trained.recipe) for trained in adapters}


def t_interval(values: Array) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of the mean of `values` (n,) by Student's t; none for fewer than two."""
    n = len(values)
    if n < 2:
        return None, None
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    mean = float(np.mean(values))
    return mean - half, mean + half


def mean_of(name: str, values: Sequence[float], unit: str, better: Better) -> Figure:
    """The mean of at least one value with its t interval; `n` counts the values."""
    low, high = t_interval(np.asarray(values, dtype=np.float64))
    return Figure(name, float(np.mean(values)), len(values), low, high, unit, better)


def over_data_sets(
    name: str, by_adapter: Mapping[str, float], sets: Mapping[str, str], unit: str, better: Better
) -> Figure:
    """The mean over data sets of the mean over the adapters of each; `n` counts the data sets.

    Args:
        name: What the figure is called.
        by_adapter: One value for each adapter.
        sets: The data set of each adapter; one that is missing has rows of its own.
        unit: That of the values.
        better: Which direction is the good one.
    """
    groups: dict[str, list[float]] = {}
    for adapter, value in by_adapter.items():
        groups.setdefault(sets.get(adapter, adapter), []).append(value)
    return mean_of(name, [float(np.mean(group)) for group in groups.values()], unit, better)


@dataclass(frozen=True, slots=True)
class Difference:
    """One quantity of a choice less that of something else, on one adapter or over several."""

    figure: Figure
    """On one adapter, with a bootstrap over its prompts or rows; over several, with a t interval
    over the adapters."""
    by_data: Figure | None
    """Over the data sets that the adapters were trained on; None for one adapter."""


def difference_of(
    name: str,
    samples: Mapping[str, Array],
    n: int,
    unit: str,
    better: Better,
    sets: Mapping[str, str],
) -> Difference:
    """The difference on one adapter, or its mean over several.

    Args:
        name: What the figure is called.
        samples: By adapter, the value and then those of its resamples: (1 + resamples,).
        n: How many prompts or rows each value is made of.
        unit: That of the values.
        better: Which direction is the good one.
        sets: The data set of each adapter.
    """
    if len(samples) == 1:
        return Difference(figure(name, next(iter(samples.values())), n, unit, better), None)
    values = {adapter: float(drawn[0]) for adapter, drawn in samples.items()}
    return Difference(
        mean_of(name, list(values.values()), unit, better),
        over_data_sets(name, values, sets, unit, better),
    )
