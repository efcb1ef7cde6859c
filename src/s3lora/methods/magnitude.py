"""`magnitude`: how large the update is. The baseline that every other method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from s3lora.adapter import LoraModule, Weights
from s3lora.linalg import singular_values, spectrum_summary
from s3lora.scores import Score, Unsafe


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Frobenius norm of the update, ‖s·B·A‖_F, in the units of the weights.

    Cost
        O((m + n) r^2) time, O((m + n) r) memory per module.
    """

    name: ClassVar[str] = "magnitude"
    unsafe: ClassVar[Unsafe] = "high"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, module: LoraModule, weights: Weights) -> Score:
        """The norm; all plain figures of the spectrum beside it."""
        s = abs(module.scaling) * singular_values(module.B, module.A)
        parts = spectrum_summary(s)
        return Score(module.name, parts["frobenius"], parts, {"update": tuple(s.tolist())})
