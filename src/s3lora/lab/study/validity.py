"""Do the figures that sample nothing tell which prompts are refused? From rows with replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s3lora.lab.metrics.reliability import auroc
from s3lora.lab.study.rows import MARGIN, REFUSAL, Quantity, Row


@dataclass(frozen=True, slots=True)
class Validity:
    """How well a figure tells refused harmful prompts from answered ones."""

    quantity: Quantity
    rows: int
    """With replies of both kinds."""
    prompts: int
    """In each."""
    within: float | None
    """Mean over the rows of the area under the ROC curve over a row's prompts."""
    pooled: float | None
    """The area over the prompts of all rows together."""
    rates: float | None
    """Pearson correlation over rows of the mean figure and the share refused."""


def validity(rows: Sequence[Row]) -> tuple[Validity, ...]:
    """For the refusal log-odds and the refusal margin; nothing without replies."""
    told = [row for row in rows if row.replies]
    return tuple(_of(quantity, told) for quantity in (REFUSAL, MARGIN)) if told else ()


def _of(quantity: Quantity, rows: Sequence[Row]) -> Validity:
    pairs = [_pairs(quantity, row) for row in rows]
    areas = [area for flags, values in pairs if (area := _area(flags, values)) is not None]
    flags = [flag for some, _ in pairs for flag in some]
    values = [value for _, some in pairs for value in some]
    means = np.array([[np.mean(some), np.mean(told)] for told, some in pairs if told])
    rates = None
    if len(means) > 2 and means.std(0).min() > 0:
        rates = float(np.corrcoef(means.T)[0, 1])
    within = float(np.mean(areas)) if areas else None
    return Validity(quantity, len(areas), len(pairs[0][0]), within, _area(flags, values), rates)


def _pairs(quantity: Quantity, row: Row) -> tuple[list[bool], list[float]]:
    """Verdict and figure of the prompts that have both."""
    verdicts = row.replies.harmful_refused if row.replies else ()
    values = getattr(row, quantity.field)
    both = [
        (flag, value)
        for flag, value in zip(verdicts, values, strict=False)  # the first prompts are the same
        if flag is not None
    ]
    return [flag for flag, _ in both], [value for _, value in both]


def _area(flags: Sequence[bool], values: Sequence[float]) -> float | None:
    return auroc(list(flags), list(values)).value
