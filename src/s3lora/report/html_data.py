"""What the page's script works on: a result as one JSON value with the modules in natural order.

Scores are written in full, since the script chooses by them; figures that are only shown, and
spectra, are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s3lora.adapter import ModuleName, natural_key, projection_of
from s3lora.report import Comparison, ModuleFacts, Ranking, Report
from s3lora.report.html_command import choice, command, listed
from s3lora.report.html_words import short
from s3lora.report.json import rounded
from s3lora.report.places import places_of
from s3lora.scores import ScoreTable

SINGULAR_VALUES = 60_000
"""How many singular values the page of one spectrum each holds at most, over all modules."""
FEWEST = 8
"""How many of one spectrum are kept in any case."""
FIGURES = 40
"""How many of the figures beside the scores are shown; a saved result may hold any number."""
LABEL = 60
"""How much of a layer's or projection's name is shown, in characters."""

Series = Mapping[str, tuple[float, ...]]


def of_report(report: Report) -> dict[str, Any]:
    """A scan, or a plan to prune."""
    names = sorted(report.modules, key=natural_key)
    series = {score.module: score.series for score in report.table.scores}
    norms = _norms(names, series) | _told_norms(report.table)
    return {
        "kind": "scan",
        **_modules(names, report.modules, series, norms),
        "measures": [
            {
                **_measure(names, report.table, report.table.method),
                "parts": _parts(names, report.table),
                "command": command(report.ref, report.table, report.plan),
            }
        ],
        "choice": _placed(choice(report), names, report.chosen),
        "drops": report.plan is None or report.plan.edit == "drop",
    }


def of_ranking(ranking: Ranking) -> dict[str, Any]:
    """Several methods on one adapter."""
    names = sorted(ranking.modules, key=natural_key)
    tables = zip(ranking.labels, ranking.tables, strict=True)
    return {
        "kind": "rank",
        **_modules(names, ranking.modules, ranking.series, _norms(names, ranking.series)),
        "measures": [
            {**_measure(names, table, label), "command": command(ranking.ref, table)}
            for label, table in tables
        ],
        "choice": {"kind": "top-k", "value": ranking.k, "among": None},
        "drops": True,
    }


def of_comparison(comparison: Comparison) -> dict[str, Any]:
    """Two adapters, module by module."""
    rows = sorted(comparison.rows, key=lambda row: natural_key(row.module))
    series = {row.module: row.series for row in rows}
    columns = {
        "change": [row.change for row in rows],
        "‖ΔW‖ in A": [row.norm_a for row in rows],
        "‖ΔW‖ in B": [row.norm_b for row in rows],
    }
    return {
        "kind": "compare",
        **_modules([row.module for row in rows], {}, series, {}),
        "statuses": [row.status for row in rows],
        "measures": [
            {"name": name, "sign": 1, "values": values, "why": {}, "command": None}
            for name, values in columns.items()
        ],
        "choice": None,
        "drops": False,
    }


def _modules(
    names: Sequence[ModuleName],
    facts: Mapping[ModuleName, ModuleFacts],
    series: Mapping[ModuleName, Series],
    norms: Mapping[ModuleName, float],
) -> dict[str, Any]:
    """What the modules are, and where they stand."""
    found = places_of(names)
    leaves = sorted({projection_of(name) for name in names}, key=natural_key)
    at = {leaf: number for number, leaf in enumerate(leaves)}
    most = max(FEWEST, SINGULAR_VALUES // max(len(names), 1))
    return {
        "names": [short(name) for name in names],
        "places": [None if p is None else [p.stack, p.layer, p.projection] for p in found.places],
        "stacks": [
            {
                "path": short(stack.path, LABEL),
                "layers": [short(layer, LABEL) for layer in stack.layers],
                "projections": [short(name, LABEL) for name in stack.labels],
            }
            for stack in found.stacks
        ],
        "projection": [at[projection_of(name)] for name in names],
        "projections": [{"name": short(leaf, LABEL), "word": listed(leaf)} for leaf in leaves],
        "rank": [facts[name].rank if name in facts else None for name in names],
        "shape": [facts[name].shape if name in facts else None for name in names],
        "norm": [_rounded(norms.get(name)) for name in names],
        "spectra": [
            {key: _kept(values, most) for key, values in series.get(name, {}).items()}
            for name in names
        ],
        "lengths": [
            max((len(values) for values in series.get(name, {}).values()), default=0)
            for name in names
        ],
    }


def _measure(names: Sequence[ModuleName], table: ScoreTable, label: str) -> dict[str, Any]:
    """The scores of one method, and why modules have none."""
    values = {score.module: score.value for score in table.scores}
    reasons = {row.module: short(row.reason) for row in table.skipped}
    return {
        "name": short(label),
        "sign": 1 if table.unsafe == "high" else -1,
        "values": [values.get(name) for name in names],
        "why": {at: reasons[name] for at, name in enumerate(names) if name in reasons},
    }


def _parts(names: Sequence[ModuleName], table: ScoreTable) -> dict[str, list[float | None]]:
    """The figures that stand beside the scores, by name."""
    parts = {score.module: score.parts for score in table.scores}
    keys = dict.fromkeys(key for score in table.scores for key in score.parts)
    return {
        short(key, LABEL): [_rounded(parts.get(name, {}).get(key)) for name in names]
        for key in list(keys)[:FIGURES]
    }


def _norms(names: Iterable[ModuleName], series: Mapping[ModuleName, Series]) -> dict[Any, float]:
    """‖ΔW‖_F of the modules whose spectrum is known."""
    known = {name: series[name]["update"] for name in names if "update" in series.get(name, {})}
    norms = {name: math.hypot(*values) for name, values in known.items()}
    return {name: norm for name, norm in norms.items() if math.isfinite(norm)}


def _told_norms(table: ScoreTable) -> dict[Any, float]:
    """‖ΔW‖_F where the method says it, and of the updates that are zero."""
    told = {s.module: s.parts["frobenius"] for s in table.scores if "frobenius" in s.parts}
    return told | {row.module: 0.0 for row in table.skipped if row.judged}


def _placed(
    asked: dict[str, Any], names: Sequence[ModuleName], chosen: Sequence[ModuleName]
) -> dict[str, Any]:
    """A choice with its modules and projections as the numbers that the page knows them by."""
    leaves = sorted({projection_of(name) for name in names}, key=natural_key)
    at = {name: number for number, name in enumerate(names)}
    among = asked["among"]
    return {
        **asked,
        "chosen": [at[name] for name in chosen],
        "among": None if among is None else [leaves.index(n) for n in among if n in leaves],
    }


def _kept(values: Sequence[float], most: int) -> list[float | None]:
    return [_rounded(value, 5) for value in values[:most]]


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else rounded(value, digits)
