"""`s3lora-released`: what the published code of S3LoRA computes, so that anyone can see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from s3lora.adapter import LoraModule, Weights
from s3lora.errors import ParameterError
from s3lora.mas_svd import formed
from s3lora.scores import Score, Skipped, Unsafe

Single = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class S3LoraReleased:
    """The released index S[0]/(ΣS + 1e-6) of a rank-one matrix: it follows the size of the update.

    The best pair (u, v) of `keep` candidates each is fitted to B·A (without the scale), the
    outcome is multiplied by the row norms, and the spectrum is taken of that. A rank-one matrix
    has one singular value, so but for rounding the index is S[0]/(S[0] + 1e-6). For reproduction
    only; `s3lora` is the method.

    Source
        Paper: Ao and Rumchurn, 2025, arXiv 2508.15068.  Code: as released, our reading.
    Deviations
        None intended. The candidates u are rows of U and not columns, as released: they depend on
        the LAPACK build, and where m > n they do not fit, so that the code fails.
    Cost
        Three dense SVDs in single precision: O(m n min(m, n)) time, O(m n) memory.
    """

    keep: int = 5
    """How many candidates on either side."""

    name: ClassVar[str] = "s3lora-released"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ParameterError(f"keep={self.keep} keeps nothing", hint="give at least 1")

    def score(self, module: LoraModule, weights: Weights) -> Score | Skipped:
        """The released index; the matrix's own S[0] beside it."""
        X: Single = formed(module.B.astype(np.float32), module.A.astype(np.float32))
        if X.shape[0] > X.shape[1]:
            return Skipped(
                module.name, "the released code fails where a matrix is taller than wide"
            )
        rows = np.linalg.norm(X, axis=1, keepdims=True) + np.float32(1e-8)
        columns = np.linalg.norm(X, axis=0, keepdims=True) + np.float32(1e-8)
        V = np.linalg.svd(X / rows, full_matrices=False)[2][: self.keep]
        U = np.linalg.svd(X / columns, full_matrices=False)[0][: self.keep]  # rows, as released
        fitted = min((_fit(X, u, v) for u in U for v in V), key=lambda fit: fit[0])[1]
        S = np.linalg.svd(rows * fitted, compute_uv=False)
        value = float(S[0] / (S.sum() + np.float32(1e-6)))
        return Score(module.name, value, {"s_0": float(S[0])})


def _fit(X: Single, u: Single, v: Single) -> tuple[float, Single]:
    """The absolute error of the pair's rank-one fit, and the fit."""
    d = np.median((X @ v) * u)
    fitted: Single = d * np.outer(u, v)
    return float(np.abs(X - fitted).sum()), fitted
