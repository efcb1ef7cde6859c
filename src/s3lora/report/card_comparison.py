"""The card of a comparison: which adapters, how many modules differ, and which of them the most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from s3lora.compare import Difference
from s3lora.report import Comparison
from s3lora.report.card import document, identity, made_by
from s3lora.report.markdown import cell, code, escaped, figure, grid
from s3lora.report.verdict import verdict

MOST = 10
"""How many of the differences are shown."""
TITLES = ("module", "difference", "‖ΔW‖ in A", "‖ΔW‖ in B", "‖ΔW_B − ΔW_A‖", "relative change")


def render(comparison: Comparison) -> str:
    """The card of a comparison; with a base model if it is the same in both adapters."""
    a, b = comparison.a, comparison.b
    base = b.base_model if a.base_model == b.base_model else ""
    return document(base, _section(comparison))


def _section(comparison: Comparison) -> Iterator[str]:
    a, b = comparison.a, comparison.b
    count, statuses = len(comparison.rows), Counter(row.status for row in comparison.rows)
    yield from ("## Compared with s3lora", "", escaped(verdict(comparison)), "")
    yield from identity("A", a, count - statuses["only in B"])
    yield from identity("B", b, count - statuses["only in A"])
    if a.base_model != b.base_model:
        named = [code(source.base_model) if source.base_model else "none" for source in (a, b)]
        yield f"- The base models are not the same: {named[0]} in A, {named[1]} in B"
    yield made_by(comparison.tool)
    yield from _largest([row for row in comparison.rows if row.status != "same"])


def _largest(rows: list[Difference]) -> Iterator[str]:
    """The largest differences; those of which none can be told come last."""
    if not rows:
        return
    sizes = [(_size(row), row) for row in rows]
    sizes.sort(key=lambda sized: -1.0 if sized[0] is None else sized[0], reverse=True)
    shown = [
        (cell(row.module), row.status, *map(figure, (row.norm_a, row.norm_b, size, row.change)))
        for size, row in sizes[:MOST]
    ]
    yield from ("", "### Largest differences", "", *grid("llrrrr", TITLES, shown))
    if len(rows) > MOST:
        yield from ("", f"{len(rows) - MOST} more: the JSON report has every one of them.")


def _size(row: Difference) -> float | None:
    """‖ΔW_B − ΔW_A‖_F, with no update where the module is not there; None if it is unknown."""
    if row.status in ("only in A", "only in B"):
        return row.norm_a if row.status == "only in A" else row.norm_b
    if row.change is None or row.norm_a is None:
        return row.norm_b if row.status == "changed" and row.norm_a == 0 else None
    size = row.change * row.norm_a
    return size if math.isfinite(size) else None
