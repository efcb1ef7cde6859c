"""`s3lora`: how concentrated the spectrum of a robust, magnitude-aware rebuild of the update is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from s3lora.adapter import LoraModule, Weights
from s3lora.errors import ParameterError
from s3lora.linalg import spectrum_summary, thin_svd
from s3lora.mas_svd import mas_svd
from s3lora.scores import Score, Unsafe


@dataclass(frozen=True, slots=True)
class S3Lora:
    """Spectral Sharpness Index (SSI) of the update by MAS-SVD; no unit, invariant to its scale.

    Top singular vectors are taken of the update with every row, and with every column, on the
    unit sphere, so that a few loud rows or columns cannot hide the structure. Each pair of them is
    fitted back to the update itself in the least absolute sense; pairs are picked greedily by what
    they explain, none twice. SSI = σ₁/Σσ of that rebuild of rank R = min(keep, rank), in
    [1/R, 1]; 1 is a rank-one update. Where the modules of an adapter differ in R, the score is the
    excess (SSI − 1/R)/(1 − 1/R) instead, in [0, 1].

    Source
        Paper: Ao and Rumchurn, 2025, arXiv 2508.15068 (MAS-SVD, SSI); robust SVD: Han, Kim and
        Jung, 2024, arXiv 2402.09754 (SpSVD).
    Deviations
        The released code of the paper scores a rank-one matrix, so that its index follows the
        size of the update. Here the rebuild has rank R, and is fitted to the update and not to
        its normalised copies, so that the magnitudes are in it.
    Cost
        `projected`: O((m + n) (r^2 + R^2)) time, O((m + n) r) memory per module.
        `dense`: O(m n R^3) time, O(m n) memory: for ablations only.
    """

    keep: int = 5
    """How many directions are rebuilt at most; at least 1."""
    fit: str = "projected"
    """projected: fits seen from the other side's vector. dense: over all entries, as in SpSVD."""

    name: ClassVar[str] = "s3lora"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ParameterError(f"keep={self.keep} rebuilds nothing", hint="give at least 1")
        if self.fit not in ("projected", "dense"):
            raise ParameterError(f"s3lora has no fit {self.fit!r}", hint="projected or dense")

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """SSI; beside it the excess, both spectra and the plain figures of the update's."""
        svd = thin_svd(module.B, module.A)
        sigma = mas_svd(svd, self.keep, self.fit)
        total = float(sigma.sum())
        ssi = float(sigma[0]) / total if total else float("nan")
        R = len(sigma)
        excess = (ssi - 1 / R) / (1 - 1 / R) if R > 1 else 1.0
        parts = {"ssi": ssi, "excess": excess, "directions": float(R)}
        s, rebuilt = abs(module.scaling) * svd.s, abs(module.scaling) * sigma
        series = {"update": tuple(s.tolist()), "rebuild": tuple(rebuilt.tolist())}
        return Score(module.name, ssi, parts | spectrum_summary(s), series)

    def conclude(self, scores: tuple[Score, ...]) -> tuple[Score, ...]:
        """Score by the excess where the modules differ in R, since the floor 1/R does."""
        if len({score.parts["directions"] for score in scores}) == 1:
            return scores
        return tuple(replace(score, value=score.parts["excess"]) for score in scores)
