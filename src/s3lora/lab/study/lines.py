"""The lines of the main table: references, the random draws, and every choice at one share.

A line of one adapter has intervals over its prompts or rows. A line over several adapters has none:
adapters differ by more than methods do, and what is compared is compared within each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from s3lora.adapter import natural_key
from s3lora.lab.metrics.intervals import Figure, wilson
from s3lora.lab.study import rows as study
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap, figure
from s3lora.lab.study.rows import BENIGN, LOSS, MARGIN, REFUSAL, Quantity, Row
from s3lora.lab.study.units import mean_of

Groups: TypeAlias = Sequence[tuple[Row, ...]]  # of a cell, by adapter


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the main table: a reference, the random draws, or a method's choice."""

    method: str
    edit: str
    adapters: int
    """Over how many adapters the figures are means."""
    draws: int
    refusal: Figure | None
    margin: Figure | None
    benign: Figure | None
    loss: Figure | None
    spread: tuple[float | None, ...]
    """Standard deviation of these four over the draws, mean over adapters; None if not drawn."""
    refused: Figure | None
    """Share of the harmful prompts that are refused."""
    over_refused: Figure | None
    """Share of the harmless prompts that are refused."""


def main_lines(
    rows: Sequence[Row], names: Sequence[str], share: float, bootstrap: Bootstrap = DEFAULT
) -> tuple[Line, ...]:
    """The lines for some adapters: references, random, then methods; none without any row."""
    groups: dict[tuple[str, str], list[tuple[Row, ...]]] = {}
    for reference in study.REFERENCES:
        found = (study.reference(rows, name, reference) for name in names)
        groups[reference, ""] = [(row,) for row in found if row]
    for cell, group in sorted(study.by_cell(rows).items(), key=lambda item: _rank(item[0])):
        at_share = abs(cell.share - share) < 1e-9 and cell.method not in study.REFERENCES
        if at_share and cell.adapter in names:
            groups.setdefault((cell.method, cell.edit), []).append(group)
    return tuple(_line(*key, group, bootstrap) for key, group in groups.items() if group)


def _rank(cell: study.Cell) -> tuple[object, ...]:
    return cell.method != study.RANDOM, natural_key(cell.method), cell.edit


def _line(method: str, edit: str, groups: Groups, bootstrap: Bootstrap) -> Line:
    columns = [_mean(groups, quantity, bootstrap) for quantity in (REFUSAL, MARGIN, BENIGN, LOSS)]
    means, spreads = zip(*columns, strict=True)
    draws = min(len(group) for group in groups)
    rates = (_rate(groups, which) for which in ("harmful_refused", "harmless_refused"))
    refusal, margin, benign, loss = means
    return Line(method, edit, len(groups), draws, refusal, margin, benign, loss, spreads, *rates)


def _mean(
    groups: Groups, quantity: Quantity, bootstrap: Bootstrap
) -> tuple[Figure | None, float | None]:
    """Over draws, adapters and items, with the deviation; None unless every row has them."""
    if not all(getattr(row, quantity.field) for group in groups for row in group):
        return None, None
    means = bootstrap.of_groups(quantity, groups)  # (samples, adapters)
    if len(groups) == 1:
        n = len(getattr(groups[0][0], quantity.field))
        mean = figure(quantity.field, means[:, 0], n, quantity.unit, quantity.better)
    else:
        mean = _bare(mean_of(quantity.field, means[0].tolist(), quantity.unit, quantity.better))
    if min(map(len, groups)) < 2:
        return mean, None
    return mean, float(np.mean([quantity.means(group).std(ddof=1) for group in groups]))


def _rate(groups: Groups, which: str) -> Figure | None:
    """The mean share over rows; on one adapter with Wilson's interval for the prompts of one row.

    All rows of an adapter have the same prompts, so that more rows do not make more of them.
    """
    rates = [rate for group in groups if (rate := _scored(group, which))]
    if not rates:
        return None
    if len(groups) > 1:
        return _bare(mean_of(which, [share for share, _ in rates], "share", "neither"))
    share, n = rates[0]
    return Figure(which, share, n, *wilson(round(share * n), n), "share", "neither")


def _scored(group: Sequence[Row], which: str) -> tuple[float, int] | None:
    """The mean share over the rows with replies, and how many prompts each has at the least."""
    replies = [getattr(row.replies, which) for row in group if row.replies]
    verdicts = [[flag for flag in flags if flag is not None] for flags in replies]
    rates = [float(np.mean(flags)) for flags in verdicts if flags]
    if not rates:
        return None
    return float(np.mean(rates)), min(len(flags) for flags in verdicts if flags)


def _bare(mean: Figure) -> Figure:
    """Without its interval."""
    return replace(mean, low=None, high=None)
