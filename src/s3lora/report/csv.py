"""A result as CSV: a row for each module in natural order, columns as in docs/results.md.

Numbers are written in full. Text comes from a file that may be hostile: control characters are
escaped, and a text that a spreadsheet would take for a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO

from s3lora.report import Comparison, Ranking, Report, Result
from s3lora.report.escape import printable
from s3lora.selection import robust_z

Cell = str | float | int | bool | None
SCAN = ("module", "place", "score", "z", "chosen", "edit", "rank", "m", "n", "not_scored")
"""Followed by the method's own figures, such as sigma_1 and frobenius."""
RANK = ("module", "rank", "m", "n")
"""Followed by a column for each method: its score."""
COMPARE = ("module", "status", "norm_a", "norm_b", "change")
FORMULA = ("=", "+", "-", "@")


def render(result: Result) -> str:
    """A result as CSV, with a header."""
    match result:
        case Report():
            return _scan(result)
        case Ranking():
            return _rank(result)
        case Comparison():
            rows = ([r.module, r.status, r.norm_a, r.norm_b, r.change] for r in result.rows)
            return _text(COMPARE, rows)


def _scan(report: Report) -> str:
    scores = {score.module: score for score in report.table.scores}
    reasons = {row.module: row.reason for row in report.table.skipped}
    parts = list(dict.fromkeys(name for score in scores.values() for name in score.parts))
    places = {score.module: at for at, score in enumerate(report.table.ranked(), 1)}
    z, chosen = robust_z(report.table), set(report.chosen)
    edits = report.plan.edits if report.plan else {}
    rows: list[list[Cell]] = []
    for name, facts in report.modules.items():
        score = scores.get(name)
        told: list[Cell] = [name, places.get(name), score.value if score else None, z.get(name)]
        told += [name in chosen, edits[name].name if name in edits else None]
        told += [facts.rank, *facts.shape, reasons.get(name)]
        rows.append(told + [score.parts.get(part) if score else None for part in parts])
    return _text([*SCAN, *parts], rows)


def _rank(ranking: Ranking) -> str:
    values = [{score.module: score.value for score in table.scores} for table in ranking.tables]
    rows = (
        [name, facts.rank, *facts.shape, *(column.get(name) for column in values)]
        for name, facts in ranking.modules.items()
    )
    return _text([*RANK, *ranking.labels], rows)


def _text(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(title) for title in header])
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _cell(cell: Cell) -> str | float | int:
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case str():
            text = printable(cell)
            return f"'{text}" if text.startswith(FORMULA) else text
        case _:
            return cell
