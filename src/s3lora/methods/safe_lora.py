"""`safe-lora`: how much of the update points along the alignment direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from s3lora.adapter import LoraModule, Weights
from s3lora.alignment import UNDEFINED, direction, reweighted
from s3lora.linalg import thin_svd
from s3lora.scores import Score, Skipped, Unsafe


@dataclass(frozen=True, slots=True)
class SafeLora:
    """Cosine between the update and its projection C·ΔW on the alignment direction, in [0, 1].

    C = V·Vᵀ/‖V‖_F with V = W_aligned − W_base. A low cosine says that the update moves the module
    in directions that alignment hardly used. Invariant to the scale of the update and of V.

    Source
        Paper: Hsu et al., 2024, arXiv 2405.16833.  Code: IBM/SafeLoRA.
    Deviations
        Modules are matched by name, the cosine is not rounded to five decimals, and C is never
        formed.
    Cost
        O(m n r) time, three matrices of one module in memory.
    """

    name: ClassVar[str] = "safe-lora"
    unsafe: ClassVar[Unsafe] = "low"
    needs: ClassVar[frozenset[str]] = frozenset({"base", "aligned"})

    def score(self, module: LoraModule, weights: Weights) -> Score | Skipped:
        """The cosine; beside it how much C shrinks the update."""
        V = direction(weights)
        if V is None:
            return Skipped(module.name, UNDEFINED)
        svd = thin_svd(module.B, module.A)
        X = svd.U * svd.s  # (m, k): the update but for orthonormal rows on its right
        P = reweighted(V, X)
        size = float(np.linalg.norm(P))
        cosine = float((P * X).sum()) / (size * float(np.linalg.norm(X))) if size else 0.0
        cosine = min(max(cosine, 0.0), 1.0)  # C is positive semi-definite, but for rounding
        series = {"update": tuple((abs(module.scaling) * svd.s).tolist())}
        return Score(module.name, cosine, {"shrinks_to": size / float(np.linalg.norm(X))}, series)
