"""`sharpness`: when an update turns sharp, and a penalty that holds it from doing so (ours)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import TrainerCallback

from s3lora.adapter import LoraModule, ModuleName, Weights
from s3lora.errors import ParameterError
from s3lora.lab.defences.interface import Branch, Guard, Run, branches_of
from s3lora.linalg import singular_values
from s3lora.methods.s3lora import S3Lora

TINY = 1e-12
"""The least floor, for a weight of zero."""

LOG, PLOT = "sharpness.jsonl", "sharpness.svg"

FIGURES = ("ssi", "plain_ssi", "sigma_1", "frobenius")
"""What a row says of a module, beside its name and the step: as the method `s3lora` has them."""


@dataclass(frozen=True, slots=True)
class Sharpness:
    """Logs the sharpness of every module while it is trained; with a weight, holds it down.

    After every so many steps, and after the last, SSI of each update and beside it its plain
    σ₁/Σσ, σ₁ and ‖ΔW‖_F go to `sharpness.jsonl` in the adapter's folder, a row a module;
    `sharpness.svg` beside it plots them. Where there is no figure, as for an update of zero,
    a row has null and a reason.

    The penalty is weight times the mean over modules of the concentration
    tr(M²)/(tr(M) + ε)², M = s²·BᵀB·AAᵀ: but for ε it is Σσ⁴/(Σσ²)² of the update, one over the
    participation ratio of its energies, in [1/r, 1] and 1 for rank one. ε = (floor·‖W‖_F)² lets a
    module count only once its update has some size, which makes the penalty and its gradient zero
    at B = 0 and smooth everywhere. What it is not: it is no SSI, which is made of medians and has
    no useful gradient; it sees the plain spectrum, so loud rows or columns count; and a module can
    lower it by staying as small as the floor, too.

    Source
        Ours, after SSI: Ao and Rumchurn, 2025, arXiv 2508.15068. No paper trains with it.
    Cost
        SSI of all modules at every logged step; the penalty takes O((m + n) r²) time a step.
    """

    every: int = 5
    """Steps between rows of the log."""
    keep: int = 5
    """Of SSI: how many directions are rebuilt at most."""
    weight: float = 0.0
    """Of the penalty, at least 0; 0 only logs."""
    floor: float = 1e-3
    """‖ΔW‖_F/‖W‖_F from which a module counts, above 0."""

    name: ClassVar[str] = "sharpness"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        fits = self.every >= 1 and self.keep >= 1
        if not fits or not 0 <= self.weight < math.inf or not 0 < self.floor < math.inf:
            raise ParameterError(
                f"sharpness cannot take every={self.every}, keep={self.keep}, "
                f"weight={self.weight}, floor={self.floor}",
                hint="every and keep at least 1, a weight of at least 0, a floor above 0",
            )

    def begin(self, run: Run) -> Guard:
        """Watch the steps, and put the penalty on if it has a weight."""
        if self.weight and run.settings.rank == 1:
            raise ParameterError(
                "an update of rank 1 is as sharp as can be", hint="give a --rank of at least 2"
            )
        branches = branches_of(run.model)
        log = _Log(branches, self)
        if run.saved is not None:
            log.steps, log.figures = run.saved["steps"].tolist(), [*run.saved["figures"]]
        sizes = [float(branch.W.double().square().sum()) for branch in branches]
        floors = [max(self.floor**2 * size, TINY) for size in sizes]
        return Guard(
            callbacks=(log,),
            penalty=partial(self._penalty, branches, floors) if self.weight else None,
            kept=log.kept,
            export=partial(_export, run.model, log),
        )

    def _penalty(self, branches: Sequence[Branch], floors: Sequence[float]) -> torch.Tensor:
        parts = [
            concentration(branch.s * branch.B, branch.A, floor)
            for branch, floor in zip(branches, floors, strict=True)
        ]
        return self.weight * torch.stack(parts).mean()


def concentration(B: torch.Tensor, A: torch.Tensor, floor: float = 0.0) -> torch.Tensor:
    """tr(M²)/(tr(M) + floor)² of M = BᵀB·AAᵀ; without a floor Σσ⁴/(Σσ²)² of B·A, in [1/r, 1].

    Args:
        B: Shape (m, r).
        A: Shape (r, n).
        floor: Added to ‖B·A‖²_F, its unit; above 0 for an update that may be zero.
    """
    M = (B.T @ B) @ (A @ A.T)  # (r, r), eigenvalues σ²
    return (M * M.T).sum() / (M.trace() + floor) ** 2


class _Log(TrainerCallback):
    """The figures of every module at some steps: NaN if its update is zero, Inf if not finite."""

    def __init__(self, branches: Sequence[Branch], sharpness: Sharpness) -> None:
        self.branches, self.every = branches, sharpness.every
        self.method = S3Lora(keep=sharpness.keep)
        self.steps: list[int] = []
        self.figures: list[torch.Tensor] = []  # (modules, len(FIGURES)) each

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """After the optimiser's step, before a checkpoint."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.steps.append(state.global_step)
            rows = [self._measured(branch.module()) for branch in self.branches]
            self.figures.append(torch.tensor(rows, dtype=torch.float64))

    def _measured(self, module: LoraModule) -> list[float]:
        if not module.finite:
            return [math.inf] * len(FIGURES)
        if not (module.scaling and len(singular_values(module.B, module.A))):
            return [math.nan] * len(FIGURES)
        parts = self.method.score(module, Weights()).parts
        return [parts[figure] for figure in FIGURES]

    def kept(self) -> dict[str, torch.Tensor]:
        """Steps (T,) and figures (T, modules, len(FIGURES))."""
        shape = (0, len(self.branches), len(FIGURES))
        empty = torch.zeros(shape, dtype=torch.float64)
        figures = torch.stack(self.figures) if self.figures else empty
        return {"steps": torch.tensor(self.steps, dtype=torch.int64), "figures": figures}

    def rows(self) -> Iterator[dict[str, Any]]:
        """As they are written, in order of the steps."""
        names = [branch.name for branch in self.branches]
        for step, figures in zip(self.steps, self.figures, strict=True):
            for name, values in zip(names, figures.tolist(), strict=True):
                yield _row(step, name, dict(zip(FIGURES, values, strict=True)))


def _row(step: int, name: ModuleName, figures: Mapping[str, float]) -> dict[str, Any]:
    if math.isfinite(figures["ssi"]):
        return {"step": step, "module": name, **figures}
    reason = "the update is zero" if math.isnan(figures["ssi"]) else "the factors hold NaN or Inf"
    return {"step": step, "module": name, **dict.fromkeys(FIGURES), "reason": reason}


def _export(model: Any, log: _Log, folder: Path) -> Mapping[str, Any]:
    """The adapter, its log, and where matplotlib is there the plot of it."""
    from s3lora.lab.defences.sharpness_plot import sharpness_plot

    model.save_pretrained(folder, save_embedding_layers=False)
    rows = list(log.rows())
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / LOG).write_text(text, encoding="utf-8")
    if find_spec("matplotlib") is not None:
        sharpness_plot(rows, folder / PLOT)
    return {"logged_steps": len(log.steps)}
