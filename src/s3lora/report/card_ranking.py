"""The card of a ranking: what was ranked by what, how far the methods agree, the top of each."""

from __future__ import annotations

from collections.abc import Iterator

from s3lora.report import Ranking
from s3lora.report.advice import NO_PROOF
from s3lora.report.card import document, identity, made_by, method_of
from s3lora.report.markdown import cell, code, escaped, figure, grid
from s3lora.report.verdict import verdict

MOST = 5
"""How many of each method's top are shown."""


def render(ranking: Ranking) -> str:
    """The card of a ranking."""
    return document(ranking.source.base_model, _section(ranking))


def _section(ranking: Ranking) -> Iterator[str]:
    yield from ("## Ranked with s3lora", "", escaped(verdict(ranking)), "")
    yield from identity("Adapter", ranking.source, len(ranking.modules))
    yield made_by(ranking.tool)
    for table in ranking.tables:
        yield f"- Method: {method_of(table)}, the {table.unsafe}est score first"
    for label, table in zip(ranking.labels, ranking.tables, strict=True):
        if table.skipped:
            yield f"- {code(label)} has no score for {len(table.skipped)} modules"
    yield from ("", NO_PROOF)
    yield from _agreement(ranking)
    yield from _tops(ranking)


def _agreement(ranking: Ranking) -> Iterator[str]:
    """How far each method agrees with each other one, as a matrix."""
    if not ranking.agreement:
        return
    labels = ranking.labels
    rows = [
        (cell(a), *(_agreed(ranking, i, j) for j in range(len(labels))))
        for i, a in enumerate(labels)
    ]
    yield from ("", "### Agreement", "")
    yield "Above the diagonal: Spearman's correlation."
    yield f"Below it: the share of the top {ranking.k} that is in both."
    yield from ("", *grid("l" + "r" * len(labels), ("method", *map(cell, labels)), rows))


def _agreed(ranking: Ranking, row: int, column: int) -> str:
    """One cell of the matrix."""
    labels = {ranking.labels[row], ranking.labels[column]}
    pair = next((pair for pair in ranking.agreement if {pair.a, pair.b} == labels), None)
    if pair is None or row == column:
        return ""
    if row < column:
        return "–" if pair.spearman is None else f"{pair.spearman:+.2f}"
    return "–" if pair.overlap is None else f"{pair.overlap:.0%}"


def _tops(ranking: Ranking) -> Iterator[str]:
    """The first of each method's top K."""
    rows, cut = [], 0
    for label, table in zip(ranking.labels, ranking.tables, strict=True):
        top = table.ranked()[: ranking.k]
        cut += len(top[MOST:])
        for at, score in enumerate(top[:MOST], 1):
            rows.append((cell(label), str(at), cell(score.module), figure(score.value)))
    if rows:
        titles = ("method", "place", "module", "score")
        yield from ("", "### Top by each method", "", *grid("lrlr", titles, rows))
    if cut:
        told = f"{cut} more are among the top {ranking.k} of a method"
        yield from ("", f"{told}: the JSON report has every one of them.")
