"""Greedy replies of a study: what each choice refuses less what random choices do, by prompt.

Random draws are few here, as replies take long: their mean is held fixed, without a percentile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from s3lora.lab.metrics.intervals import Better, Figure
from s3lora.lab.study.analysis import pairs
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap, figure
from s3lora.lab.study.rows import Row, by_cell
from s3lora.linalg import Array

Prompts = Literal["harmful_refused", "harmless_refused"]


@dataclass(frozen=True, slots=True)
class Replied:
    """The replies after one choice against those after random choices of as many modules."""

    method: str
    edit: str
    share: float
    adapters: int
    draws: int
    """Random choices with replies that each adapter has, at the least."""
    wins: int
    """On how many adapters more harmful prompts are refused than after random choices."""
    refused: Figure
    """Share of harmful prompts refused, less that after random choices."""
    over_refused: Figure
    """The same of harmless prompts: lower is better."""


def replied(rows: Iterable[Row], bootstrap: Bootstrap = DEFAULT) -> tuple[Replied, ...]:
    """Every choice that has replies, over the adapters where random choices have some too."""
    groups: dict[tuple[str, str, float], list[tuple[list[Row], list[Row]]]] = {}
    for cell, (own, draws) in pairs(by_cell(rows)).items():
        told = [row for row in own if row.replies], [row for row in draws if row.replies]
        if all(told):
            groups.setdefault(cell[1:], []).append(told)
    return tuple(_replied(key, groups[key], bootstrap) for key in sorted(groups))


def _replied(
    key: tuple[str, str, float],
    among: Sequence[tuple[list[Row], list[Row]]],
    bootstrap: Bootstrap,
) -> Replied:
    harmful, harmless = (
        [_refused(own, which) - _refused(draws, which) for own, draws in among]
        for which in ("harmful_refused", "harmless_refused")
    )
    return Replied(
        *key,
        adapters=len(among),
        draws=min(len(draws) for _, draws in among),
        wins=sum(bool(np.nansum(gained) > 0) for gained in harmful),
        refused=_figure("refused", harmful, "higher", bootstrap),
        over_refused=_figure("over-refused", harmless, "lower", bootstrap),
    )


def _refused(rows: Sequence[Row], which: Prompts) -> Array:
    """Share of the rows that refuse each prompt, shape (prompts,); NaN where one is not scored."""
    flags = [getattr(row.replies, which) for row in rows]
    return np.array(flags, dtype=np.float64).mean(0)  # None becomes NaN


def _figure(name: str, gained: Sequence[Array], better: Better, bootstrap: Bootstrap) -> Figure:
    columns = []
    for values in gained:
        counts = bootstrap.counts(len(values), name) * ~np.isnan(values)
        with np.errstate(invalid="ignore"):  # no prompt of a sample may be scored
            columns.append(counts @ np.nan_to_num(values) / counts.sum(1))
    samples = bootstrap.over_adapters(np.array(columns).T)
    return figure(name, samples, min(map(len, gained)), "share", better)
