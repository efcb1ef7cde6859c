"""`project`: the update's part along the alignment direction in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Replace, Weights
from s3lora.alignment import UNDEFINED, direction, reweighted, subspace
from s3lora.errors import ParameterError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Project:
    """B becomes Π·B: the update is projected on the alignment direction; A, rank and alpha stay.

    Guarantees that the update is Π·ΔW to float32. `safe-lora`: Π = V·Vᵀ/‖V‖_F, which also
    shrinks. `subspace`: the projector on the leading left singular vectors of V, so that editing
    twice changes nothing more.

    Source
        Paper: Hsu et al., 2024, arXiv 2405.16833.
    Cost
        O(m n r) time for safe-lora, O(m n min(m, n)) for subspace.
    """

    projection: str = "safe-lora"
    energy: float = 0.9
    """subspace: the share of ‖V‖² that the vectors hold."""

    name: ClassVar[str] = "project"
    needs: ClassVar[frozenset[str]] = frozenset({"base", "aligned"})

    @property
    def params(self) -> dict[str, Any]:
        """Projection and energy."""
        return {"projection": self.projection, "energy": self.energy}

    def __post_init__(self) -> None:
        if self.projection not in ("safe-lora", "subspace") or not 0 < self.energy <= 1:
            raise ParameterError(
                f"project cannot take projection={self.projection!r}, energy={self.energy}",
                hint="safe-lora or subspace; energy in (0, 1]",
            )

    def __call__(self, module: LoraModule, weights: Weights) -> Replace:
        """A and Π·B."""
        V = direction(weights)
        if V is None:
            raise UnsupportedError(f"{module.name}: {UNDEFINED}", hint="choose other modules")
        if not np.isfinite(V).all():
            fault = f"{module.name}: the base or the aligned weights hold NaN or Inf"
            raise UnsupportedError(fault, hint="choose other modules")
        if self.projection == "safe-lora":
            return Replace(module.A, reweighted(V, module.B))
        U = subspace(V, self.energy)
        return Replace(module.A, U @ (U.T @ module.B))
