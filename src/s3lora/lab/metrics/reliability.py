"""Does the model know when it is wrong: ranking by uncertainty, and calibration of confidence.

Uncertainty is one number per sample, higher for less certain; here the mean entropy of the
answer's tokens is meant. All figures have a bootstrap interval over samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from s3lora.errors import ParameterError
from s3lora.lab.metrics.intervals import (
    Better,
    Figure,
    Values,
    bootstrap,
    complete,
    joined,
    missing,
)
from s3lora.linalg import Array

Statistic = Callable[[Array, Array], float]


def auroc(wrong: Values, uncertainty: Values) -> Figure:
    """P(uncertainty of a wrong answer > that of a right one), ties counting half; in [0, 1].

    Args:
        wrong: True where the answer is wrong.
        uncertainty: Any unit; only the order counts.

    Raises:
        ParameterError: if they do not pair, or `wrong` is neither true nor false.
    """
    return _figure("AUROC of uncertainty", wrong, uncertainty, _auroc, one_class=False)


def auarc(correct: Values, uncertainty: Values) -> Figure:
    """Mean over k = 1..n of the accuracy of the k most certain answers, in [0, 1].

    Among equally uncertain answers the order is chance: the expected value over all orders counts.

    Args:
        correct: True where the answer is right.
        uncertainty: Any unit; only the order counts.

    Raises:
        ParameterError: if they do not pair, or `correct` is neither true nor false.

    Source
        Area under the accuracy-rejection curve: Nadeem et al., 2010, PMLR 8:65.
    """
    return _figure("AUARC", correct, uncertainty, _auarc, one_class=False)


def ece(correct: Values, confidence: Values, bins: int = 10) -> Figure:
    """Expected calibration error Σ(n_b/n)·|accuracy − confidence| over equal bins, in [0, 1].

    Small samples raise it, and so do many bins; the bootstrap interval shares that.

    Args:
        correct: True where the answer is right.
        confidence: In [0, 1].
        bins: Number of bins of equal width, at least 1.

    Raises:
        ParameterError: if a value is out of its range, or they do not pair.

    Source
        Guo et al., 2017, arXiv 1706.04599.
    """
    if bins < 1:
        raise ParameterError(f"{bins} bins", hint="at least one is needed")

    def statistic(right: Array, sure: Array) -> float:
        place = np.minimum((sure * bins).astype(int), bins - 1)  # (n,)
        return float(np.abs(np.bincount(place, right - sure)).sum() / len(sure))

    _in_unit("confidence", confidence)
    return _figure(f"ECE, {bins} bins", correct, confidence, statistic, "lower")


def _figure(
    name: str,
    flags: Values,
    values: Values,
    statistic: Statistic,
    better: Better = "higher",
    one_class: bool = True,
) -> Figure:
    """A statistic of (flags, values) with its interval; none for one class unless that will do."""
    (flag, value), note = complete(flags, values)
    if not np.isin(flag, (0.0, 1.0)).all():
        raise ParameterError(f"{name}: a flag is neither true nor false", hint="give bool or None")
    if len(flag) == 0:
        return missing(name, "", better, note or "no samples")
    if not one_class and flag.min() == flag.max():
        why = "all answers are right, or all are wrong"
        return missing(name, "", better, joined(why, note), len(flag))
    interval = bootstrap(statistic, flag, value)
    return Figure(name, statistic(flag, value), len(flag), *interval, "", better, note)


def _auroc(wrong: Array, uncertainty: Array) -> float:
    """From the rank sum of the wrong answers; NaN if a class is missing."""
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[group]  # (n,), from 1, ties at their mean
    positives = wrong.sum()
    pairs = positives * (len(wrong) - positives)
    if pairs == 0:
        return float("nan")
    return float((rank @ wrong - positives * (positives + 1) / 2) / pairs)


def _auarc(correct: Array, uncertainty: Array) -> float:
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    expected = np.repeat(np.bincount(group, correct) / size, size)  # (n,), most certain first
    return float((np.cumsum(expected) / np.arange(1, len(correct) + 1)).mean())


def _in_unit(name: str, values: Values) -> None:
    (scored,), _ = complete(values)
    if ((scored < 0) | (scored > 1)).any():
        raise ParameterError(f"a {name} is not in [0, 1]", hint="give probabilities")
