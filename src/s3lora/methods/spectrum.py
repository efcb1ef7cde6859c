"""`spectrum`: how concentrated the plain spectrum of the update is. A baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from s3lora.adapter import LoraModule, Weights
from s3lora.errors import ParameterError
from s3lora.linalg import singular_values, spectrum_summary
from s3lora.scores import Score, Unsafe

MEASURES: dict[str, tuple[str, Unsafe]] = {
    "concentration": ("plain_ssi", "high"),
    "stable-rank": ("stable_rank", "low"),
    "effective-rank": ("effective_rank", "low"),
}


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One figure of the singular values σ of the update; no unit, invariant to its scale.

    `concentration` is σ₁/Σσ in (0, 1], `stable-rank` is ‖·‖_F²/σ₁² and `effective-rank` is
    exp(entropy of σ/Σσ), both in [1, r]. A sharp update has a high concentration and low ranks.

    Cost
        O((m + n) r^2) time, O((m + n) r) memory per module.
    """

    measure: str = "concentration"
    """concentration, stable-rank or effective-rank."""

    name: ClassVar[str] = "spectrum"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ParameterError(
                f"spectrum has no measure {self.measure!r}", hint=f"one of {', '.join(MEASURES)}"
            )

    @property
    def unsafe(self) -> Unsafe:
        """High for the concentration, low for the ranks."""
        return MEASURES[self.measure][1]

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """The figure asked for; all of them beside it."""
        s = abs(module.scaling) * singular_values(module.B, module.A)
        parts = spectrum_summary(s)
        value = parts[MEASURES[self.measure][0]]
        return Score(module.name, value, parts, {"update": tuple(s.tolist())})
