"""`salora`: the branch cannot write where safe answers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from s3lora.errors import ParameterError
from s3lora.extrapolate import leading_directions
from s3lora.lab.defences.features import output_directions
from s3lora.lab.defences.interface import NAME, Branch, Guard, Kept, Run, branches_of
from s3lora.lab.defences.stacked import Factors, write_factors

STARTS = ("task", "pissa", "plain")


@dataclass(frozen=True, slots=True)
class Salora:
    """LoRA with a fixed safety module between B and the output, y = W'·x + s·C·B·A·x.

    C = I − U·Uᵀ, where U (m, r_s) are the leading directions of the module's outputs at the
    response tokens of refusals: whatever A and B become, Uᵀ·ΔW = 0. A and B start from the
    truncated SVD of W ≈ P·S·Qᵀ, with B put into the span T of the outputs on the rows to train on:
    B₀ = T·Tᵀ·P·√S and A₀ = √S·Qᵀ. The frozen weight becomes W' = W − s·C·B₀·A₀, so that training
    starts from the model as it was.

    The adapter that is written is a plain one on the unchanged model, of rank 2r and twice the
    alpha: B = [C·B, −C·B₀], A = [A; A₀].

    Source
        Paper: Li et al., 2025, arXiv 2501.01765 (ICLR 2025).  Code: homles11/SaLoRA.
    Deviations
        The scale s is in W', where the released code is right for s = 1 only. C is never formed.
        Refusals are those of the recipe `refusal` unless rows are given, not the model's own.
        Directions of the outputs that are zero but for rounding are not counted to r_s.
    Cost
        Before training two forward passes over `samples` rows and an SVD for each module; then
        O(m r_s) time for every token and module.
    """

    r_s: int = 32
    """Directions that are kept free, less than every module's m."""
    r_t: int = 32
    """Directions that B starts in."""
    samples: int = 128
    """Safety rows, and rows to train on, that are looked at."""
    start: str = "task"
    """task: as above. pissa: B₀ = P·√S. plain: as LoRA starts, with W' = W."""

    name: ClassVar[str] = "salora"
    needs: ClassVar[frozenset[str]] = frozenset({"safety"})

    def __post_init__(self) -> None:
        if min(self.r_s, self.r_t, self.samples) < 1 or self.start not in STARTS:
            raise ParameterError(
                f"salora cannot take r_s={self.r_s}, r_t={self.r_t}, samples={self.samples}, "
                f"start={self.start}",
                hint=f"numbers of at least 1; start one of {', '.join(STARTS)}",
            )

    def begin(self, run: Run) -> Guard:
        """Put C behind every B, and W' and the start in place."""
        branches = branches_of(run.model)
        self._refuse_narrow(branches)
        kept = run.saved if run.saved is not None else self._prepared(run, branches)
        for branch in branches:
            U, B, A = (kept[f"{branch.name}.{part}"] for part in "UBA")
            branch.layer.lora_B[NAME].register_forward_hook(_projecting(U))
            branch.W.sub_((branch.s * _without(U, B) @ A).to(branch.W))
            branch.set(B, A)
        return Guard(kept=lambda: kept, export=partial(self._export, run.model, branches, kept))

    def _refuse_narrow(self, branches: Sequence[Branch]) -> None:
        narrow = min(branches, key=lambda branch: len(branch.W))
        if self.r_s >= len(narrow.W):
            raise ParameterError(
                f"{narrow.name} has {len(narrow.W)} outputs: r_s={self.r_s} leaves none to learn",
                hint=f"give -p r_s=N with N below {len(narrow.W)}, or other --targets",
            )

    def _prepared(self, run: Run, branches: Sequence[Branch]) -> Kept:
        """U, B₀ and A₀ of every module."""
        look = partial(
            output_directions, run.model, run.tokenizer, branches=branches,
            longest=run.settings.longest, batch=run.settings.batch,
        )  # fmt: skip
        U = look(run.safety[: self.samples], k=self.r_s)
        T = look(run.tasks[: self.samples], k=self.r_t) if self.start == "task" else {}
        kept: dict[str, torch.Tensor] = {}
        for branch in branches:
            B, A = self._start(branch, T.get(branch.name))
            parts = {"U": U[branch.name], "B": B, "A": A}
            kept |= {f"{branch.name}.{key}": part.float() for key, part in parts.items()}
        return kept

    def _start(self, branch: Branch, T: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """B₀ (m, r) and A₀ (r, n); what W has no direction for starts as in LoRA."""
        A, B = (p.detach().cpu().double() for p in (branch.A, branch.B))
        if self.start == "plain":
            return B, A
        P, S, Qh = leading_directions(branch.W.cpu().double().numpy(), len(A), None)
        root = torch.from_numpy(S).sqrt()
        leading = torch.from_numpy(P.copy()) * root
        A[: len(root)] = root[:, None] * torch.from_numpy(Qh.copy())
        B[:, : len(root)] = leading if T is None else T @ (T.T @ leading)
        return B, A

    def _export(
        self, model: Any, branches: Sequence[Branch], kept: Kept, folder: Path
    ) -> Mapping[str, Any]:
        modules = {}
        for branch in branches:
            U, B, A = (kept[f"{branch.name}.{part}"] for part in "UBA")
            now = Factors(_without(U, branch.B.detach().cpu()), branch.A.detach().cpu())
            start = Factors(-_without(U, B), A)
            modules[branch.name] = now if self.start == "plain" else now.beside(start)
        settings = model.peft_config[NAME]
        write_factors(model, modules, folder, alpha=settings.lora_alpha, rank=settings.r)
        kept_free = [len(kept[f"{branch.name}.U"].T) for branch in branches]
        return {"rank": len(next(iter(modules.values())).A), "least_directions": min(kept_free)}


def _without(U: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """C·B = B − U·Uᵀ·B, computed in float64."""
    wide = U.double()
    return (B.double() - wide @ (wide.T @ B.double())).to(B.dtype)


def _projecting(U: torch.Tensor) -> Any:
    """A hook that takes the directions U (m, r_s) out of a module's output."""
    held = [U]

    def project(layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        held[0] = held[0].to(output)  # moves once, with the model
        return output - (output @ held[0]) @ held[0].T

    return project
