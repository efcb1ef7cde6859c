"""Scores tried in the study that are no methods of the package: made of figures it has anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from s3lora.adapter import Adapter, layer_of, natural_key, projection_of
from s3lora.linalg import Array, thin_svd
from s3lora.scan import scan
from s3lora.scores import Score, ScoreTable

Parts = Mapping[str, float]


def sharp_and_large(adapter: Adapter) -> ScoreTable:
    """SSI·‖ΔW‖_F: sharpness weighted by size."""
    return _formed(adapter, "sharp-and-large", lambda parts: parts["ssi"] * parts["frobenius"])


def leading(adapter: Adapter) -> ScoreTable:
    """σ₁ of the update: the largest change of any unit input."""
    return _formed(adapter, "leading", lambda parts: parts["sigma_1"])


def flat(adapter: Adapter) -> ScoreTable:
    """1 − SSI: the opposite claim, that flat updates do the harm."""
    return _formed(adapter, "flat", lambda parts: -parts["ssi"])


def small(adapter: Adapter) -> ScoreTable:
    """−‖ΔW‖_F: the smallest updates first."""
    return _formed(adapter, "small", lambda parts: -parts["frobenius"])


def neighbours(adapter: Adapter) -> ScoreTable:
    """How far the leading output direction returns in the same projection of the layers beside.

    The mean of |cos(u₁, u₁')| with the next and the previous layer, weighted by σ₁: an update that
    writes one direction through many layers is one behaviour.
    """
    table = scan(adapter, "spectrum")
    found = [_leading(adapter, score.module) for score in table.scores]
    groups: dict[str, list[int]] = {}
    for at, score in enumerate(table.scores):
        groups.setdefault(score.module.replace(layer_of(score.module), ""), []).append(at)
    values = np.zeros(len(found))
    for places in groups.values():
        for before, after in pairwise(places):
            if found[before][1].shape == found[after][1].shape:
                cosine = abs(float(found[before][1] @ found[after][1]))
                values[before] += cosine / 2
                values[after] += cosine / 2
    scores = tuple(
        Score(score.module, float(value * sigma))
        for score, value, (sigma, _) in zip(table.scores, values, found, strict=True)
    )
    return replace(table, method="neighbours", params={}, unsafe="high", scores=scores)


VARIANTS: dict[str, Callable[[Adapter], ScoreTable]] = {
    "sharp-and-large": sharp_and_large,
    "leading": leading,
    "flat": flat,
    "small": small,
    "neighbours": neighbours,
}


def within_projections(table: ScoreTable) -> ScoreTable:
    """Each score as its rank among the modules of its projection, in (0, 1]; high to look at."""
    groups: dict[str, list[Score]] = {}
    for score in table.ranked():
        groups.setdefault(projection_of(score.module), []).append(score)
    scores = [
        Score(score.module, 1 - place / len(group))
        for group in groups.values()
        for place, score in enumerate(group)
    ]
    ordered = tuple(sorted(scores, key=lambda score: natural_key(score.module)))
    return replace(table, unsafe="high", scores=ordered)


def _formed(adapter: Adapter, name: str, formula: Callable[[Parts], float]) -> ScoreTable:
    table = scan(adapter, "s3lora")
    scores = tuple(Score(score.module, formula(score.parts)) for score in table.scores)
    return replace(table, method=name, params={}, unsafe="high", scores=scores)


def _leading(adapter: Adapter, name: str) -> tuple[float, Array]:
    """σ₁ and u₁ of a module's update."""
    module = adapter.read(name)
    svd = thin_svd(module.B, module.A)
    return abs(module.scaling) * float(svd.s[0]), svd.U[:, 0]
