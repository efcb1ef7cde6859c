"""Several methods on one adapter: how far they agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s3lora.adapter import ModuleName
from s3lora.errors import ParameterError
from s3lora.linalg import Array
from s3lora.methods import method_class
from s3lora.scores import ScoreTable


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two methods on the modules that both scored."""

    a: str
    b: str
    modules: int
    """How many modules both scored."""
    spearman: float | None
    """Rank correlation in [−1, 1], both turned so that the first place is the one to look at;
    None with fewer than two modules, or where a method gives all the same score."""
    overlap: float | None
    """Share of the top K of either that is in both, in [0, 1]; None with K = 0."""


def agreement(tables: Sequence[ScoreTable], k: int) -> tuple[Agreement, ...]:
    """Compare every method with every other.

    Args:
        tables: One for each method, of one adapter.
        k: How many modules count as the top.

    Raises:
        ParameterError: if two of them are of the same method with the same parameters.
    """
    labels = [label(table) for table in tables]
    for again in sorted({name for name in labels if labels.count(name) > 1}):
        raise ParameterError(f"{again} is there twice", hint="give it once, or other parameters")
    return tuple(_pair(a, b, k) for at, a in enumerate(tables) for b in tables[at + 1 :])


def label(table: ScoreTable) -> str:
    """The method's name, and those of its parameters that are not its defaults."""
    usual = _defaults(table.method)
    own = [f"{k}={v}" for k, v in table.params.items() if k not in usual or usual[k] != v]
    return f"{table.method}({', '.join(own)})" if own else table.method


def _defaults(name: str) -> dict[str, Any]:
    """The defaults of a method's parameters; none if it is not a registered one."""
    try:
        fields = dataclasses.fields(method_class(name))  # type: ignore[arg-type]
    except ParameterError:
        return {}
    return {field.name: field.default for field in fields}


def places(table: ScoreTable) -> dict[ModuleName, int]:
    """The place of each scored module in the ranking, from 1."""
    return {score.module: place for place, score in enumerate(table.ranked(), 1)}


def _pair(a: ScoreTable, b: ScoreTable, k: int) -> Agreement:
    first, second = _values(a), _values(b)
    common = [name for name in first if name in second]
    x, y = np.array([first[n] for n in common]), np.array([second[n] for n in common])
    k = min(k, len(common))
    overlap = len(_top(a, set(common), k) & _top(b, set(common), k)) / k if k else None
    return Agreement(label(a), label(b), len(common), spearman(x, y), overlap)


def _top(table: ScoreTable, among: set[ModuleName], k: int) -> set[ModuleName]:
    return set([score.module for score in table.ranked() if score.module in among][:k])


def _values(table: ScoreTable) -> dict[ModuleName, float]:
    """Scores turned so that high is the end to look at."""
    sign = 1 if table.unsafe == "high" else -1
    return {score.module: sign * score.value for score in table.scores}


def spearman(x: Array, y: Array) -> float | None:
    """Spearman's rank correlation, with mean ranks for ties; None where it is undefined."""
    if len(x) < 2:
        return None
    a, b = (_ranks(v) - (len(v) - 1) / 2 for v in (x, y))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else None


def _ranks(x: Array) -> Array:
    """Ranks from zero, ties sharing their mean."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse])
