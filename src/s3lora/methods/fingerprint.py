"""`fingerprint`: the features by which backdoors are looked for in weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Weights
from s3lora.errors import ParameterError
from s3lora.linalg import TINY, Array, singular_values, spectrum_summary
from s3lora.scores import Score, Skipped, Unsafe

FEATURES: dict[str, Unsafe] = {
    "kurtosis": "high",
    "concentration": "high",
    "entropy": "low",
    "sigma_1": "high",
    "frobenius": "high",
}
BLOCK = 2**20
"""How many entries of the update are formed at a time."""
MAX_PRODUCTS = 2**42
"""Most products for a kurtosis: a vocabulary of 262,144 by a width of 16,384 at rank 1024."""
EQUAL = "undefined: all entries of the update are equal"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One of σ₁, ‖ΔW‖_F, σ₁/Σσ, spectral entropy and kurtosis of the update; all stand beside it.

    Kurtosis is of the update's entries, in both conventions: `kurtosis_pearson` is 3 for normal
    entries, `kurtosis_fisher` is 0 (`kurtosis` as a feature is Fisher's). Entropy is −Σπ·log π of
    π = σ/Σσ, in nats. σ₁ and the norm are in the units of the weights, the rest have none.

    Source
        Paper: weight-space detection of backdoors in LoRA adapters, 2026, arXiv 2602.15195.
    Deviations
        The paper feeds the features of one layer to a classifier that was fitted to a population
        of adapters; here they are scores, and say nothing without one.
    Cost
        O(m n r) time for the kurtosis, in blocks of rows; O((m + n) r) memory.
    """

    feature: str = "kurtosis"
    """kurtosis, concentration, entropy, sigma_1 or frobenius."""

    name: ClassVar[str] = "fingerprint"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise ParameterError(
                f"fingerprint has no feature {self.feature!r}", hint=f"one of {', '.join(FEATURES)}"
            )

    @property
    def unsafe(self) -> Unsafe:
        """Low for the entropy, high for the others."""
        return FEATURES[self.feature]

    def score(self, module: LoraModule, weights: Weights) -> Score | Skipped:
        """The feature asked for; all of them beside it, but a kurtosis that is undefined."""
        s = abs(module.scaling) * singular_values(module.B, module.A)
        share = s / s.sum()
        pearson = float("nan") if _takes_too_long(module) else kurtosis(module.B, module.A)
        parts = spectrum_summary(s) | {
            "concentration": float(share[0]),
            "entropy": max(float(-(share @ np.log(share))), 0.0),
        }
        if not np.isnan(pearson):
            parts |= {"kurtosis_pearson": pearson, "kurtosis_fisher": pearson - 3}
        elif self.feature == "kurtosis":
            reason = "the update has too many entries" if _takes_too_long(module) else EQUAL
            return Skipped(module.name, reason)
        key = "kurtosis_fisher" if self.feature == "kurtosis" else self.feature
        return Score(module.name, parts[key], parts, {"update": tuple(s.tolist())})


def _takes_too_long(module: LoraModule) -> bool:
    """Whether to form every entry of the update would be the work of many minutes."""
    return len(module.B) * module.A.size > MAX_PRODUCTS


def kurtosis(B: Array, A: Array) -> float:
    """Pearson's kurtosis of the entries of B·A: fourth central moment over the squared second.

    The entries are formed a block of rows at a time. Shape (m, r) and (r, n); 3 for normal
    entries, NaN if all entries are equal.
    """
    B = B / np.abs(B).max()
    A = A / np.abs(A).max()
    mean = float(B.sum(axis=0) @ A.sum(axis=1)) / (len(B) * A.shape[1])
    second = fourth = 0.0
    step = max(1, BLOCK // A.shape[1])
    for start in range(0, len(B), step):
        square = (B[start : start + step] @ A - mean) ** 2
        second += float(square.sum())
        fourth += float(np.vdot(square, square))
    count = len(B) * A.shape[1]
    if second / count <= (TINY * mean) ** 2:
        return float("nan")
    return float(fourth / count / (second / count) ** 2)
