"""Greedy replies of a study: what each choice refuses less what random choices do, by prompt.

Random draws are few here, as replies take long: their mean is held fixed, without a percentile.
On one adapter the interval is over prompts; over several it is Student's t over the adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from s3lora.lab.metrics.intervals import Better
from s3lora.lab.study.analysis import OWN_ROWS, pairs
from s3lora.lab.study.bootstrap import DEFAULT, Bootstrap
from s3lora.lab.study.rows import Row, by_cell
from s3lora.lab.study.units import Difference, difference_of
from s3lora.linalg import Array

Pair: TypeAlias = tuple[list[Row], list[Row]]  # of a choice, and the draws for it
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
    refused: Difference
    """Share of harmful prompts refused, less that after random choices."""
    over_refused: Difference
    """The same of harmless prompts: lower is better."""


def replied(
    rows: Iterable[Row], bootstrap: Bootstrap = DEFAULT, sets: Mapping[str, str] = OWN_ROWS
) -> tuple[Replied, ...]:
    """Every choice that has replies, over the adapters where random choices have some too."""
    groups: dict[tuple[str, str, float], dict[str, Pair]] = {}
    for cell, (own, draws) in pairs(by_cell(rows)).items():
        pair = [row for row in own if row.replies], [row for row in draws if row.replies]
        if all(pair):
            groups.setdefault(cell[1:], {})[cell.adapter] = pair
    return tuple(_replied(key, groups[key], sets, bootstrap) for key in sorted(groups))


def _replied(
    key: tuple[str, str, float],
    among: Mapping[str, Pair],
    sets: Mapping[str, str],
    bootstrap: Bootstrap,
) -> Replied:
    harmful, harmless = (
        {
            name: _refused(own, which) - _refused(draws, which)
            for name, (own, draws) in among.items()
        }
        for which in ("harmful_refused", "harmless_refused")
    )
    return Replied(
        *key,
        adapters=len(among),
        draws=min(len(draws) for _, draws in among.values()),
        wins=sum(bool(np.nansum(gained) > 0) for gained in harmful.values()),
        refused=_difference("refused", harmful, "higher", sets, bootstrap),
        over_refused=_difference("over-refused", harmless, "lower", sets, bootstrap),
    )


def _refused(rows: Sequence[Row], which: Prompts) -> Array:
    """Share of the rows that refuse each prompt, shape (prompts,); NaN where one is not scored."""
    flags = [getattr(row.replies, which) for row in rows]
    return np.array(flags, dtype=np.float64).mean(0)  # None becomes NaN


def _difference(
    name: str,
    gained: Mapping[str, Array],
    better: Better,
    sets: Mapping[str, str],
    bootstrap: Bootstrap,
) -> Difference:
    samples = {}
    for adapter, values in gained.items():
        counts = bootstrap.counts(len(values), name) * ~np.isnan(values)
        with np.errstate(invalid="ignore"):  # no prompt of a sample may be scored
            samples[adapter] = counts @ np.nan_to_num(values) / counts.sum(1)
    n = min(map(len, gained.values()))
    return difference_of(name, samples, n, "share", better, sets)
