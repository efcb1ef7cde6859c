"""`truncate`: the update at a lower rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from s3lora.adapter import LoraModule, Replace, Weights
from s3lora.edits.factors import truncated
from s3lora.errors import ParameterError
from s3lora.linalg import energy_rank, thin_svd


@dataclass(frozen=True, slots=True)
class Truncate:
    """Only the leading directions stay that hold a share of the energy; the rank falls.

    Guarantees the smallest rank k with Σ_{i≤k}σ_i² ≥ energy·Σσ_i², and the best update of that
    rank (Eckart and Young): ‖change‖_F² = Σ_{i>k}σ_i². A module that needs its whole rank stays
    as it is.
    """

    energy: float = 0.9
    """In (0, 1]."""

    name: ClassVar[str] = "truncate"
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def params(self) -> dict[str, Any]:
        """Energy."""
        return {"energy": self.energy}

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ParameterError(f"energy={self.energy} is no share", hint="a number in (0, 1]")

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """The factors of the leading directions."""
        svd = thin_svd(module.B, module.A)
        if not len(svd.s):
            return Replace(module.A, module.B)
        k = energy_rank((svd.s / svd.s[0]) ** 2, self.energy)
        return truncated(svd, k) if k < len(module.A) else Replace(module.A, module.B)
