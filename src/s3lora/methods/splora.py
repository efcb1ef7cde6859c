"""`splora`: how far the update lies from the alignment direction, among the adapter's modules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Weights
from s3lora.alignment import UNDEFINED, direction, reweighted, subspace
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.linalg import TINY, thin_svd
from s3lora.scores import Score, Skipped, Unsafe

FEWEST = 5
"""Fewer modules have no spread worth the name."""


@dataclass(frozen=True, slots=True)
class Splora:
    """E-DIEM of the update's distance from its projection on the alignment direction; no unit.

    d = ‖ΔW − Π·ΔW‖_F/√(m·n) is the distance per entry. Over the modules of the adapter, with
    their largest and smallest d, mean and variance, the score is (d_max − d_min)·(d − mean)/var:
    DIEM with empirical moments. A high score says misaligned. `robust` gives (d − median)/IQR.
    With `subspace`, scaling all weights together changes nothing; with `safe-lora` it does, since C
    grows with V.

    Source
        Paper: SPLoRA, 2025, arXiv 2506.18931; DIEM: Tessari et al., 2024, arXiv 2407.08623.
    Deviations
        The released code takes its moments from 50 copies of one pair, so that its score is
        rounding noise (`splora-released`). Here they are those of the adapter's modules, and the
        default projection is a true projector.
    Cost
        `subspace`: O(m n min(m, n)) time for the spectrum of V; `safe-lora`: O(m n r). Three
        matrices of one module in memory.
    """

    projection: str = "subspace"
    """subspace: on the leading left singular vectors of V. safe-lora: by V·Vᵀ/‖V‖_F."""
    energy: float = 0.9
    """subspace: the share of ‖V‖² that the vectors hold, in (0, 1]."""
    k: int = 0
    """subspace: how many vectors instead; 0 goes by `energy`."""
    robust: bool = False
    """Median and interquartile range instead of mean and variance."""

    name: ClassVar[str] = "splora"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset({"base", "aligned"})

    def __post_init__(self) -> None:
        if self.projection not in ("subspace", "safe-lora"):
            raise ParameterError(
                f"splora has no projection {self.projection!r}", hint="subspace or safe-lora"
            )
        if not 0 < self.energy <= 1 or self.k < 0:
            raise ParameterError(
                f"energy={self.energy}, k={self.k} select no subspace",
                hint="energy in (0, 1], k a whole number, 0 for none",
            )

    def score(self, module: LoraModule, weights: Weights) -> Score | Skipped:
        """The distance per entry, which `conclude` compares with the others'."""
        V = direction(weights)
        if V is None:
            return Skipped(module.name, UNDEFINED)
        svd = thin_svd(module.B, module.A)
        s = abs(module.scaling) * svd.s
        X = svd.U * s  # (m, k)
        if self.projection == "safe-lora":
            P = reweighted(V, X)
        else:
            U = subspace(V, self.energy, self.k)  # (m, K)
            P = U @ (U.T @ X)
        size = float(np.linalg.norm(X))
        outside = float(np.linalg.norm(X - P)) / size
        outside = outside if outside > TINY else 0.0  # where Π reaches everything
        d = outside * size / float(np.sqrt(V.size))
        parts = {"distance": d, "share_outside": outside}
        return Score(module.name, d, parts, {"update": tuple(s.tolist())})

    def conclude(self, scores: tuple[Score, ...]) -> tuple[Score, ...]:
        """E-DIEM of every distance among all of them.

        Raises:
            UnsupportedError: if there are fewer than five modules, or no spread between them.
        """
        d = np.array([score.parts["distance"] for score in scores])
        low, middle, high = np.quantile(d, [0.25, 0.5, 0.75])
        spread = high - low if self.robust else d.std()
        if len(d) < FEWEST or spread <= TINY * d.max():
            why = f"{len(d)} modules" if len(d) < FEWEST else "modules without spread in distance"
            raise UnsupportedError(
                f"E-DIEM is undefined for {why}",
                hint=f"it compares at least {FEWEST} modules that differ; use another method",
            )
        if self.robust:
            values = (d - middle) / spread
        else:
            values = (d.max() - d.min()) * (d - d.mean()) / spread**2
        return tuple(replace(s, value=float(v)) for s, v in zip(scores, values, strict=True))
