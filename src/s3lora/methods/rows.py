"""`rows`: whether a few rows or columns carry the update, which a spectrum hardly shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Weights
from s3lora.errors import ParameterError
from s3lora.linalg import Array, row_blocks, thin_svd
from s3lora.scores import Score, Unsafe

MEASURES = ("row-hoyer", "column-hoyer", "top-rows", "top-columns")
FEW = 8
"""How many rows or columns `top-rows` and `top-columns` count."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How unevenly the update's size is spread over its rows or columns, in [0, 1]; no unit.

    Hoyer sparsity of the row norms, (√m − ‖ρ‖₁/‖ρ‖₂)/(√m − 1), is 0 if all rows are equally long
    and 1 if one carries everything. `top-rows` is the share of ‖ΔW‖² in the eight longest rows.
    The same for columns.

    Source
        Hoyer, 2004, Journal of Machine Learning Research 5.
    Cost
        O((m + n) r^2) time, O((m + n) r) memory per module.
    """

    measure: str = "row-hoyer"
    """row-hoyer, column-hoyer, top-rows or top-columns."""

    name: ClassVar[str] = "rows"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ParameterError(
                f"rows has no measure {self.measure!r}", hint=f"one of {', '.join(MEASURES)}"
            )

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """The measure asked for; all four beside it."""
        U, s, V = thin_svd(module.B, module.A)
        rows, columns = (_lengths(Q, s / s[0]) for Q in (U, V))
        values = [hoyer(rows), hoyer(columns), _top_share(rows), _top_share(columns)]
        parts = dict(zip(MEASURES, values, strict=True))
        series = {"update": tuple((abs(module.scaling) * s).tolist())}
        return Score(module.name, parts[self.measure], parts, series)


def _lengths(Q: Array, s: Array) -> Array:
    """The norms (m,) of the rows of Q·diag(s), Q (m, k)."""
    return np.concatenate([np.linalg.norm(part * s, axis=1) for part in row_blocks(Q)])


def hoyer(x: Array) -> float:
    """Hoyer sparsity of a vector that is not zero, in [0, 1]; 1 for a single entry."""
    root = len(x) ** 0.5
    if root == 1:
        return 1.0
    sparsity = float((root - np.abs(x).sum() / np.linalg.norm(x)) / (root - 1))
    return min(max(sparsity, 0.0), 1.0)  # but for rounding


def _top_share(norms: Array) -> float:
    """The share of the squared norms in the FEW largest."""
    squares = np.sort(norms**2)[::-1]
    return float(squares[:FEW].sum() / squares.sum())
