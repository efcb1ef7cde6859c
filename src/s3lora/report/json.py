"""The report as JSON, schema 1: what other programs build on. It never holds NaN."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from s3lora.adapter import Replace, natural_key
from s3lora.agreement import label, places
from s3lora.compare import Difference
from s3lora.plan import Plan
from s3lora.report import Ranking, Report

ENCODER = json.JSONEncoder(allow_nan=False)


def render(report: Report) -> str:
    """A scan, or a plan to prune, as JSON."""
    chosen = set(report.chosen)
    document: dict[str, Any] = {
        "schema": 1,
        "tool": dict(report.tool),
        "adapter": {
            "ref": report.ref,
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
                "rank": report.modules[score.module].rank,
                "shape": list(report.modules[score.module].shape),
                "parts": dict(score.parts),
            }
            for score in report.table.scores
        ],
        "skipped": [{"module": row.module, "reason": row.reason} for row in report.table.skipped],
        "findings": [
            {"rule": f.rule, "severity": f.severity, "where": f.where, "message": f.message}
            for f in report.findings
        ],
        "policy": {"name": report.policy_name, "params": dict(report.policy_params)},
        "chosen": list(report.chosen),
    }
    if report.plan is not None:
        document["plan"] = _plan(report.plan)
    return _text(document)


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "edit": {"name": plan.edit, "params": dict(plan.edit_params)},
        "target": plan.target,
        "fold_scale": plan.fold_scale,
        "edits": {name: edit.name for name, edit in plan.edits.items()},
        "errors": {n: e.error for n, e in plan.edits.items() if isinstance(e, Replace)},
        "notes": list(plan.notes),
    }


def render_comparison(ref_a: str, ref_b: str, rows: Sequence[Difference]) -> str:
    """A comparison of two adapters as JSON."""
    document = {
        "schema": 1,
        "a": ref_a,
        "b": ref_b,
        "modules": [asdict(row) for row in rows],
    }
    return _text(document)


def render_ranking(ranking: Ranking) -> str:
    """Several methods on one adapter as JSON."""
    placed = {label(table): places(table) for table in ranking.tables}
    values = {label(t): {s.module: s.value for s in t.scores} for t in ranking.tables}
    names = sorted({name for table in ranking.tables for name in table.names}, key=natural_key)
    document = {
        "schema": 1,
        "adapter": ranking.ref,
        "methods": [
            {"label": label(t), "name": t.method, "params": dict(t.params), "unsafe": t.unsafe}
            for t in ranking.tables
        ],
        "modules": [
            {
                "module": name,
                "scores": {key: values[key].get(name) for key in values},
                "places": {key: placed[key].get(name) for key in placed},
            }
            for name in names
        ],
        "k": ranking.k,
        "agreement": [asdict(pair) for pair in ranking.agreement],
    }
    return _text(document)


def _text(document: dict[str, Any]) -> str:
    """A field on each line, and an item on each line of a list: for people, and fast to write."""
    fields = (f" {ENCODER.encode(key)}: {_value(value)}" for key, value in document.items())
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _value(value: object) -> str:
    if not isinstance(value, list) or not value:
        return ENCODER.encode(value)
    items = (ENCODER.encode(item) for item in value)
    return "[\n  " + ",\n  ".join(items) + "\n ]"
