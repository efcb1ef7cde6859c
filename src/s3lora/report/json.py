"""A result as JSON, schema 1: what other programs build on (docs/results.md). It never holds NaN.

What is written here is read back by `s3lora.report.reading`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from s3lora.adapter import natural_key
from s3lora.agreement import places
from s3lora.report import (
    Comparison,
    ModuleFacts,
    PlanFacts,
    Ranking,
    Report,
    Result,
    Source,
)
from s3lora.scores import Skipped

ENCODER = json.JSONEncoder(allow_nan=False)
SCHEMA = 1
DIGITS = 6
"""Of a singular value, significant ones; every other number is written in full."""


def render(result: Result) -> str:
    """A result as JSON."""
    match result:
        case Report():
            return _text(_scan(result))
        case Ranking():
            return _text(_rank(result))
        case Comparison():
            return _text(_compare(result))


def _scan(report: Report) -> dict[str, Any]:
    """A scan, or a plan to prune."""
    chosen = set(report.chosen)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "scan",
        "tool": dict(report.tool),
        "adapter": {
            "ref": report.ref,
            "weights": report.weights,
            "sha256": report.sha256,
            "base_model": report.base_model,
            "modules": len(report.modules),
            "parameters": report.parameters,
            "bytes": report.nbytes,
        },
        "method": {
            "name": report.table.method,
            "params": dict(report.table.params),
            "unsafe": report.table.unsafe,
        },
        "modules": [
            {
                "module": score.module,
                "score": score.value,
                "chosen": score.module in chosen,
                **_facts(report.modules[score.module]),
                "parts": dict(score.parts),
                "spectra": _spectra(score.series),
            }
            for score in report.table.scores
        ],
        "skipped": [
            {**_skipped(row), **_facts(report.modules[row.module])} for row in report.table.skipped
        ],
        "findings": [
            {"rule": f.rule, "severity": f.severity, "where": f.where, "message": f.message}
            for f in report.findings
        ],
        "policy": {"name": report.policy_name, "params": dict(report.policy_params)},
        "chosen": list(report.chosen),
    }
    if report.plan is not None:
        document["plan"] = _plan(report.plan)
    return document


def _facts(facts: ModuleFacts) -> dict[str, Any]:
    return {"rank": facts.rank, "shape": list(facts.shape)}


def _skipped(row: Skipped) -> dict[str, Any]:
    return {"module": row.module, "reason": row.reason, "judged": row.judged}


def _spectra(series: Mapping[str, Iterable[float]]) -> dict[str, list[float]]:
    """Spectra by name, rounded: they are for plots, and would be most of the file."""
    return {name: [rounded(x, DIGITS) for x in values] for name, values in series.items()}


def rounded(value: float, digits: int) -> float:
    """A number with so many significant digits; the largest floats stay as they are.

    Rounded up, those would be beyond what a float holds.
    """
    short = float(f"{value:.{digits}g}")
    return short if math.isfinite(short) else value


def _plan(plan: PlanFacts) -> dict[str, Any]:
    replaced = {name: edit for name, edit in plan.edits.items() if edit.name == "replace"}
    return {
        "edit": {"name": plan.edit, "params": dict(plan.edit_params)},
        "target": plan.target,
        "fold_scale": plan.fold_scale,
        "edits": {name: edit.name for name, edit in plan.edits.items()},
        "errors": {name: edit.error for name, edit in replaced.items()},
        "ranks": {name: edit.rank for name, edit in replaced.items()},
        "notes": list(plan.notes),
    }


def _compare(comparison: Comparison) -> dict[str, Any]:
    """Two adapters, module by module."""
    return {
        "schema": SCHEMA,
        "kind": "compare",
        "tool": dict(comparison.tool),
        "a": comparison.a.ref,
        "b": comparison.b.ref,
        "sources": {"a": _source(comparison.a), "b": _source(comparison.b)},
        "modules": [
            {
                "module": row.module,
                "status": row.status,
                "norm_a": row.norm_a,
                "norm_b": row.norm_b,
                "change": row.change,
                "spectra": _spectra(row.series),
            }
            for row in comparison.rows
        ],
    }


def _source(source: Source) -> dict[str, Any]:
    return {
        "weights": source.weights,
        "sha256": source.sha256,
        "base_model": source.base_model,
        "parameters": source.parameters,
        "bytes": source.nbytes,
    }


def _rank(ranking: Ranking) -> dict[str, Any]:
    """Several methods on one adapter."""
    named = dict(zip(ranking.labels, ranking.tables, strict=True))
    placed = {label: places(table) for label, table in named.items()}
    values = {label: {s.module: s.value for s in table.scores} for label, table in named.items()}
    return {
        "schema": SCHEMA,
        "kind": "rank",
        "tool": dict(ranking.tool),
        "adapter": ranking.ref,
        "source": _source(ranking.source),
        "methods": [
            {
                "label": label,
                "name": table.method,
                "params": dict(table.params),
                "unsafe": table.unsafe,
                "skipped": [_skipped(row) for row in table.skipped],
            }
            for label, table in named.items()
        ],
        "modules": [
            {
                "module": name,
                "scores": {label: values[label].get(name) for label in named},
                "places": {label: placed[label].get(name) for label in named},
                **_facts(ranking.modules[name]),
                "spectra": _spectra(ranking.series.get(name, {})),
            }
            for name in sorted(ranking.modules, key=natural_key)
        ],
        "k": ranking.k,
        "agreement": [asdict(pair) for pair in ranking.agreement],
    }


def _text(document: dict[str, Any]) -> str:
    """A field on each line, and an item on each line of a list: for people, and fast to write."""
    fields = (f" {ENCODER.encode(key)}: {_value(value)}" for key, value in document.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _value(value: object) -> str:
    if not isinstance(value, list) or not value:
        return ENCODER.encode(value)
    items = (ENCODER.encode(item) for item in value)
    return "[\n  " + ",\n  ".join(items) + "\n ]"
