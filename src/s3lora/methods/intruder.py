"""`intruder`: new leading directions that the base matrix does not have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Weights
from s3lora.alignment import truncated_svd
from s3lora.errors import ParameterError
from s3lora.scores import Score, Unsafe


@dataclass(frozen=True, slots=True)
class Intruder:
    """How many of the top left singular vectors of W + ΔW are like none of W; a count.

    A vector is an intruder if its largest |cosine| with the left singular vectors of the base is
    below ε. The tuned matrix is not formed, unless `top` is most of its vectors.

    Source
        Paper: Shuttleworth et al., 2024, arXiv 2410.21228.
    Cost
        A full SVD of the base matrix by LAPACK, O(m n min(m, n)), unless `against` bounds it.
    """

    top: int = 10
    """How many leading vectors of the tuned matrix are looked at."""
    epsilon: float = 0.5
    """The largest |cosine| below which a vector is an intruder."""
    against: int = 0
    """How many leading vectors of the base they are held against; 0 for all."""

    name: ClassVar[str] = "intruder"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset({"base"})

    def __post_init__(self) -> None:
        if self.top < 1 or self.against < 0 or not 0 < self.epsilon <= 1:
            raise ParameterError(
                f"top={self.top}, epsilon={self.epsilon}, against={self.against} do not fit",
                hint="top at least 1, epsilon in (0, 1], against at least 0",
            )

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """The count; the least and the mean similarity beside it."""
        W = weights.base
        assert W is not None  # noqa: S101  scan has seen to it
        B, A = module.scaling * module.B, module.A
        top = min(self.top, *W.shape)
        if top > min(W.shape) // 2:
            tuned = truncated_svd(W + B @ A, top)[0]  # (m, top)
        else:
            tuned = truncated_svd(
                W, top, (lambda x: W @ x + B @ (A @ x), lambda y: W.T @ y + A.T @ (B.T @ y))
            )[0]
        if self.against:
            own = truncated_svd(W, min(self.against, *W.shape))[0]
        else:
            own = np.linalg.svd(W, full_matrices=False)[0]  # (m, min(m, n))
        similarity = np.abs(tuned.T @ own).max(axis=1)  # (top,)
        count = int((similarity < self.epsilon).sum())
        parts = {"least": float(similarity.min()), "mean": float(similarity.mean())}
        return Score(module.name, float(count), parts)
