"""What a figure shows of a result: values by module, spectra in order, a matrix of agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from s3lora.adapter import ModuleName, natural_key
from s3lora.errors import ParameterError
from s3lora.report import Comparison, Ranking, Report, Result
from s3lora.scores import ScoreTable, Unsafe

Series = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Values:
    """One number for each module."""

    label: str
    """What the numbers are."""
    unsafe: Unsafe
    """Which end is the one to look at."""
    names: tuple[ModuleName, ...]
    """All modules in natural order."""
    of: Mapping[ModuleName | None, float | None]
    """By module; None for one without."""
    chosen: frozenset[ModuleName]


def values_of(result: Result, method: str) -> Values:
    """The scores of a scan, of one method of a ranking, or the changes of a comparison.

    Raises:
        ParameterError: if there is no such method in it.
    """
    match result:
        case Report():
            _table_of(result, method)
            return _values(result.table, result.table.method, frozenset(result.chosen))
        case Ranking():
            table = _table_of(result, method)
            return _values(table, method or result.labels[0], frozenset())
        case Comparison():
            _table_of(result, method)
            rows = sorted(result.rows, key=lambda row: natural_key(row.module))
            names = tuple(row.module for row in rows)
            changes: dict[ModuleName | None, float | None] = {r.module: r.change for r in rows}
            return Values("relative change of the update", "high", names, changes, frozenset())


def _values(table: ScoreTable, label: str, chosen: frozenset[ModuleName]) -> Values:
    names = tuple(sorted(table.names, key=natural_key))
    scores: dict[ModuleName | None, float | None] = dict.fromkeys(names)
    scores |= {score.module: score.value for score in table.scores}
    return Values(label, table.unsafe, names, scores, chosen)


def _table_of(result: Result, method: str) -> ScoreTable:
    """The table of a method; in a comparison there is none, and none may be asked for."""
    match result:
        case Report():
            tables = {result.table.method: result.table}
        case Ranking():
            tables = dict(zip(result.labels, result.tables, strict=True))
        case Comparison():
            tables = {"": ScoreTable("", {}, "high", ())}
    wanted = method or next(iter(tables), "")
    if wanted not in tables:
        raise ParameterError(
            f"the result has no method {wanted!r}", hint=f"it has {', '.join(tables) or 'none'}"
        )
    return tables[wanted]


def spectra_of(result: Result, method: str) -> list[tuple[ModuleName, Series]]:
    """The spectra of the modules, the one to look at, or that changed most, first."""
    table = _table_of(result, method)
    match result:
        case Report():
            found = [(score.module, score.series) for score in table.ranked()]
        case Ranking():
            found = [
                (score.module, result.series.get(score.module, {})) for score in table.ranked()
            ]
        case Comparison():
            rows = sorted(result.rows, key=lambda row: _sameness(row.status, row.change))
            found = [(row.module, row.series) for row in rows]
    return [(name, series) for name, series in found if any(series.values())]


def _sameness(status: str, change: float | None) -> float:
    if status == "same":
        return 1.0
    return -math.inf if change is None else -change


def agreements(ranking: Ranking) -> list[list[float]]:
    """Spearman's correlation above the diagonal, the overlap below; NaN where there is none."""
    at = {label: number for number, label in enumerate(ranking.labels)}
    grid = [[math.nan] * len(at) for _ in at]
    for pair in ranking.agreement:
        first, second = sorted((at[pair.a], at[pair.b]))
        grid[first][second] = math.nan if pair.spearman is None else pair.spearman
        grid[second][first] = math.nan if pair.overlap is None else pair.overlap
    return grid
