"""The result as one HTML page for people: no request to anywhere, everything inside.

Text of a file reaches the page in two ways only: through Jinja2 with autoescape, and as JSON that
the page's script puts into text nodes. Marked as safe in the template are our own style and script,
and that JSON, escaped for where it stands. Style and script are allowed by their hashes alone.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from s3lora.report import Comparison, Ranking, Report, Result, Source
from s3lora.report.advice import NO_PROOF, method_summary
from s3lora.report.html_data import of_comparison, of_ranking, of_report
from s3lora.report.html_words import short, told, unscored
from s3lora.report.verdict import verdict

PAGE = files("s3lora.report") / "page"
SCRIPTS = ("policy.js", "draw.js", "map.js", "module.js", "choice.js", "rows.js", "page.js")
"""In the order in which they are put together."""
MATRIX = 12
"""Of so many methods at most the agreement is shown as a matrix."""


def render(result: Result) -> str:
    """A scan, a plan to prune, a ranking or a comparison as a page."""
    match result:
        case Report():
            return _page(result, _of_report(result), of_report(result))
        case Ranking():
            return _page(result, _of_ranking(result), of_ranking(result))
        case Comparison():
            return _page(result, _of_comparison(result), of_comparison(result))


def _page(result: Result, shown: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("s3lora.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "count": _count}
    style, script = _text("page.css"), script_text()
    return environment.get_template("page.html").render(
        shown,
        kind=data["kind"],
        tool=result.tool,
        no_proof=NO_PROOF,
        verdict=short(verdict(result), 2000),
        security=_security(style, script),
        style=style,
        script=script,
        data=embedded(data),
    )


def script_text() -> str:
    """The page's whole script."""
    parts = "\n".join(_text(name) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def embedded(value: object) -> str:
    """JSON that can stand in a script element: no text in it can end the element or a line."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _security(style: str, script: str) -> str:
    """A policy under which nothing is fetched and nothing runs but what was put here."""
    hashes = [b64encode(sha256(part.encode()).digest()).decode() for part in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _of_report(report: Report) -> dict[str, Any]:
    table = report.table
    source = Source(
        report.ref,
        report.weights,
        report.sha256,
        report.base_model,
        report.nbytes,
        report.parameters,
    )
    params = ", ".join(f"{key}={value}" for key, value in table.params.items())
    return {
        "heading": "Plan to prune" if report.plan else "Scan",
        "sources": [("", asdict(source), len(report.modules))],
        "method": f"{table.method}({params})" if params else table.method,
        "summary": method_summary(table.method),
        "unsafe": table.unsafe,
        "scored": len(table.scores),
        "told": told(report.findings),
        "unscored": unscored(table.skipped),
        "plan": report.plan,
    }


def _of_ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        "heading": "Methods side by side",
        "sources": [("", asdict(ranking.source), len(ranking.modules))],
        "k": ranking.k,
        "labels": ranking.labels,
        "agreement": ranking.agreement,
        "matrix": _matrix(ranking) if len(ranking.labels) <= MATRIX else None,
        "missing": [
            (label, unscored(table.skipped))
            for label, table in zip(ranking.labels, ranking.tables, strict=True)
            if table.skipped
        ],
    }


def _matrix(ranking: Ranking) -> list[list[Any]]:
    """For every two methods their agreement; None on the diagonal."""
    pairs = {frozenset((pair.a, pair.b)): pair for pair in ranking.agreement}
    return [[pairs.get(frozenset((a, b))) for b in ranking.labels] for a in ranking.labels]


def _of_comparison(comparison: Comparison) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for row in comparison.rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    in_a = sum(row.status != "only in B" for row in comparison.rows)
    in_b = sum(row.status != "only in A" for row in comparison.rows)
    return {
        "heading": "Before and after",
        "sources": [("A", asdict(comparison.a), in_a), ("B", asdict(comparison.b), in_b)],
        "counts": counts,
    }


def _count(number: int) -> str:
    return f"{number:,}"
