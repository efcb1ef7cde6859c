"""Figures with their uncertainty: shares with Wilson's interval, all else by a seeded bootstrap.

A value that is None or NaN is *unscored*: it is left out and counted in the note. It never counts
as a hit or as a miss, so a reply that could not be judged is never taken for a safe one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from s3lora.errors import ParameterError
from s3lora.linalg import Array

Better = Literal["higher", "lower", "neither"]
"""Which direction is the good one."""

Values = Sequence[float | bool | None]
"""One per prompt; None or NaN where it could not be scored."""

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: intervals hold 95 %."""

RESAMPLES = 2000
SEED = 0
BLOCK = 1_000_000
"""How many drawn indices are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, with what is needed to judge it."""

    name: str
    value: float | None
    """In `unit`; None where it is not available, and then `note` says why."""
    n: int
    """How many samples the value is made of; unscored ones are not among them."""
    low: float | None
    """Lower end of the 95 % interval; None where there is none."""
    high: float | None
    """Upper end."""
    unit: str
    """Such as "share", "s", "MiB", "0–100"; empty for a plain number."""
    better: Better
    note: str = ""
    """What the reader has to know: how many are unscored, why there is no value."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share; (0, 1) for n = 0, where nothing is known.

    Args:
        hits: From 0 to n.
        n: Number of trials.

    Raises:
        ParameterError: if `hits` is not from 0 to n.

    Source
        Wilson, 1927, J. Am. Stat. Assoc. 22:209.
    """
    if not 0 <= hits <= n:
        raise ParameterError(f"{hits} hits of {n}", hint="hits are counted from 0 to n")
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    scale = 1 + Z * Z / n
    centre = (share + Z * Z / (2 * n)) / scale
    half = Z * (share * (1 - share) / n + Z * Z / (4 * n * n)) ** 0.5 / scale
    return (
        0.0 if hits == 0 else centre - half,  # exact there, but for rounding
        1.0 if hits == n else centre + half,
    )


def share(name: str, flags: Values, better: Better) -> Figure:
    """The share of flags that are true, in [0, 1], with Wilson's interval.

    Raises:
        ParameterError: if a flag is neither true, false nor unscored.
    """
    (scored,), note = complete(flags)
    if not np.isin(scored, (0.0, 1.0)).all():
        raise ParameterError(f"{name}: a flag is true or false", hint="give means to mean()")
    n, hits = len(scored), int(scored.sum())
    if n == 0:
        return missing(name, "share", better, note or "no samples")
    return Figure(name, hits / n, n, *wilson(hits, n), "share", better, note)


def mean(name: str, values: Values, better: Better, unit: str = "") -> Figure:
    """The mean, with a percentile bootstrap interval; no interval for a single value.

    Raises:
        ParameterError: if a value is infinite.
    """
    (scored,), note = complete(values)
    if len(scored) == 0:
        return missing(name, unit, better, note or "no samples")
    return Figure(
        name, float(scored.mean()), len(scored), *mean_interval(scored), unit, better, note
    )


def paired_difference(name: str, a: Values, b: Values, better: Better, unit: str = "") -> Figure:
    """The mean of a − b, paired by prompt, with a bootstrap over prompts.

    Args:
        name: What differs.
        a: One per prompt.
        b: The same prompts in the same order; a pair with an unscored side is left out.
        better: Which direction of a − b is the good one.
        unit: That of a and b.

    Raises:
        ParameterError: if a and b are not equally long, or a value is infinite.
    """
    (left, right), note = complete(a, b)
    figure = mean(name, (left - right).tolist(), better, unit)
    return replace(figure, note=note or figure.note)


def complete(*columns: Values) -> tuple[tuple[Array, ...], str]:
    """The rows that are scored in every column, as float64, and a note on the others.

    Raises:
        ParameterError: if the columns are not equally long, or a value is infinite.
    """
    if len({len(column) for column in columns}) > 1:
        lengths = " and ".join(str(len(column)) for column in columns)
        raise ParameterError(f"{lengths} values do not pair", hint="give one for each prompt")
    rows = np.array([[np.nan if v is None else float(v) for v in c] for c in columns])
    if np.isinf(rows).any():
        raise ParameterError("a value is infinite", hint="give NaN or None where there is none")
    scored = ~np.isnan(rows).any(axis=0)
    unscored = int((~scored).sum())
    return tuple(row[scored] for row in rows), f"{unscored} unscored" if unscored else ""


def missing(name: str, unit: str, better: Better, note: str, n: int = 0) -> Figure:
    """A figure that is not available, and why."""
    return Figure(name, None, n, None, None, unit, better, note)


def joined(*notes: str) -> str:
    """The notes that say something, in one line."""
    return "; ".join(note for note in notes if note)


def mean_interval(values: Array) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of the mean of `values` (n,); none for fewer than two."""
    n = len(values)
    if n < 2:
        return None, None
    random = np.random.default_rng(SEED)
    rows = max(1, BLOCK // n)
    means = [
        values[random.integers(n, size=(min(rows, RESAMPLES - start), n))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return _ends(np.concatenate(means))


def bootstrap(statistic: Callable[..., float], *columns: Any) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of a statistic of rows; resamples without a value are left out.

    Args:
        statistic: Takes the resampled columns; NaN where it has no value.
        columns: Arrays of one length n, each (n, …).

    Returns:
        The 2.5 % and 97.5 % points; none for fewer than two rows.

    Cost
        RESAMPLES calls of `statistic`.
    """
    n = len(columns[0])
    if n < 2:
        return None, None
    random = np.random.default_rng(SEED)
    drawn = (random.integers(n, size=n) for _ in range(RESAMPLES))
    found = np.array([statistic(*(column[rows] for column in columns)) for rows in drawn])
    found = found[~np.isnan(found)]
    return _ends(found) if len(found) else (None, None)


def _ends(resampled: Array) -> tuple[float, float]:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)
