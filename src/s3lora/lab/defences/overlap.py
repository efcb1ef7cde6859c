"""`overlap`: a penalty on updates that lie along the leading directions of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from s3lora.errors import ParameterError
from s3lora.extrapolate import leading_directions
from s3lora.lab.defences.interface import Branch, Guard, Kept, Run, branches_of

TINY = 1e-8
"""What keeps the quotient of `norm` finite for an update of zero."""

SIDES = ("column", "row", "both")


@dataclass(frozen=True, slots=True)
class Overlap:
    """The loss plus weight·Σ of how far each update lies along the top k directions of its weight.

    With W ≈ U·S·Vᵀ of rank k, before training: `column` is ‖S·Uᵀ·B·A‖²_F, `row` is ‖B·A·V·S‖²_F
    and `both` ‖S·Uᵀ·B·A·V·S‖²_F. Unweighted leaves S out. `norm` divides S·U and V·S by their
    Frobenius norms and the figure by ‖B·A‖²_F, so that the size of the update does not count. All
    of it is computed on the factors. It was made for training refusals, where `s3lora train
    --preset refusal` is the recommended setting, and holds for any rows.

    Source
        Paper: LoRA is all you need for safety alignment of reasoning LLMs, 2025, arXiv 2507.17075.
        Code: YihaoXue/lora-safety-reasoning.
    Deviations
        A k beyond a module's size does not lower that of the modules after it. As released, the
        scale s is not in B·A. The defaults of weight, k, side and norm are our reading.
    Cost
        Before training a truncated SVD for each module; then O((m + n)(r + k) r) time a step.
    """

    weight: float = 0.1
    """Of the penalty, above 0."""
    side: str = "column"
    """column: what is written. row: what is read. both."""
    k: int = 8
    """How many directions of the weight, at least 1."""
    weighted: bool = True
    """Whether directions count by their singular values."""
    norm: bool = True
    """Whether the size of the update is divided out."""

    name: ClassVar[str] = "overlap"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        weight = 0 < self.weight < float("inf")
        if not weight or self.side not in SIDES or self.k < 1:
            raise ParameterError(
                f"overlap cannot take weight={self.weight}, side={self.side}, k={self.k}",
                hint=f"a weight above 0, k of at least 1, side one of {', '.join(SIDES)}",
            )

    def begin(self, run: Run) -> Guard:
        """Find the leading directions of the weights."""
        branches = branches_of(run.model)
        kept = run.saved if run.saved is not None else self._spans(branches)
        return Guard(penalty=lambda: self._penalty(branches, kept), kept=lambda: kept)

    def _spans(self, branches: Sequence[Branch]) -> Kept:
        """Uᵀ or S·Uᵀ (k, m) and V or V·S (n, k) of every module."""
        kept: dict[str, torch.Tensor] = {}
        for branch in branches:
            U, s, Vh = leading_directions(branch.W.cpu().double().numpy(), self.k, None)
            size = s if self.weighted else np.ones(len(s))
            size = size / np.linalg.norm(size) if self.norm else size
            left, right = (torch.from_numpy(span * size).float() for span in (U, Vh.T))
            kept |= {f"{branch.name}.U": left.T.contiguous(), f"{branch.name}.V": right}
        return kept

    def _penalty(
        self, branches: Sequence[Branch], kept: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        total = torch.zeros((), device=branches[0].A.device)
        for branch in branches:
            left, right = (kept[f"{branch.name}.{part}"].to(branch.A) for part in "UV")
            total = total + self.overlap(branch.B, branch.A, left, right)
        return self.weight * total

    def overlap(
        self, B: torch.Tensor, A: torch.Tensor, left: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """The figure of one module, a scalar.

        Args:
            B: Shape (m, r).
            A: Shape (r, n).
            left: S·Uᵀ, shape (k, m).
            right: V·S, shape (n, k).
        """
        M = left @ B if self.side != "row" else B  # (k or m, r)
        N = A @ right if self.side != "column" else A  # (r, k or n)
        found = ((M.T @ M) * (N @ N.T)).sum()  # ‖M·N‖²
        return found / (((B.T @ B) * (A @ A.T)).sum() + TINY) if self.norm else found
