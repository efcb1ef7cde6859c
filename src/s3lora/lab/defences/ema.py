"""`ema`: the average of what was trained along the way, in place of its last step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from transformers import TrainerCallback

from s3lora.errors import ParameterError
from s3lora.extrapolate import leading_directions
from s3lora.lab.defences.interface import Branch, Guard, Run, branches_of
from s3lora.linalg import Array, singular_values, thin_svd


@dataclass(frozen=True, slots=True)
class Ema:
    """An exponential moving average of the parameters, which holds on to where they started.

    After each step of the optimiser, mean ← eta·mean + (1 − eta)·θ, from the untuned model on: for
    LoRA that is ΔW = 0. `shadow` trains as ever and writes the mean; `fed-back` puts the mean in
    the place of θ, so that training goes on from it. The mean of A and the mean of B do not make
    the mean of B·A; `product` averages s·B·A itself, and finds rank-r factors by SVD: at the end
    if shadow, after every step if fed-back (there near A as it is, since the optimiser goes on
    with its moments). The largest relative error of that is in the card.

    Source
        Paper: 2025, arXiv 2508.12531 (COLM 2025), which puts lost safety down to bad optimisation.
        Both modes, and averaging products, are our reading: the exact update and eta were not
        found, and 0.9 is a choice of ours.
    Deviations
        The paper tunes all weights; here it is LoRA. It also asks for a small rate, large batches
        and much accumulation, which are the settings of the training.
    Cost
        factors, and fed-back: a second copy of the factors. shadow with product: a float32 matrix
        (m, n) for each module, as the average of products has no bound on its rank but that.
    """

    eta: float = 0.9
    """Weight of the mean so far, in [0, 1]; 0 is plain training, 1 no training."""
    mode: str = "shadow"
    """shadow or fed-back."""
    space: str = "factors"
    """factors or product."""
    every: int = 1
    """Steps between updates of the mean."""
    start: int = 0
    """Steps before the first; the mean then starts from what they have trained."""

    name: ClassVar[str] = "ema"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        modes = self.mode in ("shadow", "fed-back") and self.space in ("factors", "product")
        if not modes or not 0 <= self.eta <= 1 or self.every < 1 or self.start < 0:
            raise ParameterError(
                f"ema cannot take eta={self.eta}, mode={self.mode}, space={self.space}, "
                f"every={self.every}, start={self.start}",
                hint="eta in [0, 1]; mode shadow or fed-back; space factors or product; every at "
                "least 1; start at least 0",
            )

    def begin(self, run: Run) -> Guard:
        """Watch the steps; the mean starts from the factors as they are."""
        if self.start >= run.settings.steps:
            steps = run.settings.steps
            raise ParameterError(
                f"start={self.start} is not before the last of {steps} step{'s' * (steps != 1)}",
                hint="give -p start=N with a smaller N",
            )
        branches = branches_of(run.model)
        if self.mode == "fed-back":
            mean: _Mean = _FedBack(branches, product=self.space == "product")
        else:
            mean = _Products(branches) if self.space == "product" else _Factors(branches)
        mean.restart()
        if run.saved is not None:
            mean.kept = {key: value.clone() for key, value in run.saved.items()}
        return Guard(
            callbacks=(_Averaging(self, mean),),
            kept=lambda: mean.kept,
            export=partial(_export, run.model, mean),
        )


class _Mean(Protocol):
    """A mean of what some branches were."""

    kept: dict[str, torch.Tensor]

    @property
    def error(self) -> float:
        """The largest ‖wanted − written‖_F/‖wanted‖_F of a module so far."""
        ...

    def restart(self) -> None:
        """Forget; the mean is what the branches are now."""

    def update(self, eta: float) -> None:
        """Take in what the branches are now."""

    def deploy(self) -> None:
        """Give the branches the mean."""


class _Averaging(TrainerCallback):
    """Updates a mean after the steps that it is due at, and after the last one."""

    def __init__(self, ema: Ema, mean: _Mean) -> None:
        self.ema, self.mean = ema, mean

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """After the optimiser's step, before a checkpoint."""
        after, last = state.global_step - self.ema.start, state.global_step == state.max_steps
        if after == 0:
            self.mean.restart()
        elif after > 0 and (last or after % self.ema.every == 0):
            self.mean.update(self.ema.eta)


class _Factors:
    """The mean of A and that of B."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.branches, self.error = branches, 0.0
        self.kept: dict[str, torch.Tensor] = {}

    def restart(self) -> None:
        self.kept = {key: p.detach().clone() for key, p in _parameters(self.branches)}

    def update(self, eta: float) -> None:
        for key, now in _parameters(self.branches):
            self.kept[key] = _mixed(self.kept[key].to(now), now.detach(), eta)

    def deploy(self) -> None:
        for branch in self.branches:
            branch.set(self.kept[f"{branch.name}.B"], self.kept[f"{branch.name}.A"])


class _Products:
    """The mean of s·B·A, a matrix (m, n) for each module."""

    def __init__(self, branches: Sequence[Branch]) -> None:
        self.branches, self.error = branches, 0.0
        self.kept: dict[str, torch.Tensor] = {}

    def restart(self) -> None:
        self.kept = {branch.name: _update(branch) for branch in self.branches}

    def update(self, eta: float) -> None:
        for branch in self.branches:
            now = _update(branch)
            self.kept[branch.name] = _mixed(self.kept[branch.name].to(now), now, eta)

    def deploy(self) -> None:
        for branch in self.branches:
            mean = self.kept[branch.name].cpu().double().numpy()
            B, A, error = _refactored(mean, len(branch.A))
            branch.set(B / branch.s, A)
            self.error = max(self.error, error)


class _FedBack:
    """What the branches were after the last update, which is the mean."""

    def __init__(self, branches: Sequence[Branch], *, product: bool) -> None:
        self.branches, self.product = branches, product
        self.kept: dict[str, torch.Tensor] = {}

    @property
    def error(self) -> float:
        """The largest of any step; kept with the factors, so that it outlasts an interruption."""
        return float(self.kept["error"])

    def restart(self) -> None:
        self.kept = {key: p.detach().clone() for key, p in _parameters(self.branches)}
        self.kept["error"] = torch.zeros(1, dtype=torch.float64)

    def update(self, eta: float) -> None:
        for branch in self.branches:
            B, A = (self.kept[f"{branch.name}.{part}"] for part in "BA")
            if self.product:
                self._of_products(branch, B, A, eta)
            else:
                mixed = [
                    _mixed(o.to(n), n.detach(), eta) for o, n in ((B, branch.B), (A, branch.A))
                ]
                branch.set(*mixed)
        self.kept |= {key: p.detach().clone() for key, p in _parameters(self.branches)}

    def _of_products(self, branch: Branch, B: torch.Tensor, A: torch.Tensor, eta: float) -> None:
        now = branch.module()
        wide_B = np.hstack([eta * _double(B), (1 - eta) * now.B])  # (m, 2r)
        wide_A = np.vstack([_double(A), now.A])  # (2r, n)
        new_B, new_A, error = near(wide_B, wide_A, now.A)
        branch.set(new_B, new_A)
        self.kept["error"] = self.kept["error"].clamp(min=error)

    def deploy(self) -> None:
        """The branches may be ahead of the mean by the steps since the last update."""
        for branch in self.branches:
            branch.set(self.kept[f"{branch.name}.B"], self.kept[f"{branch.name}.A"])


def near(wide_B: Array, wide_A: Array, A: Array) -> tuple[Array, Array, float]:
    """Rank-r factors of an update of higher rank whose A is as near to a given one as may be.

    The best update of rank r is U·S·Vᵀ. Its factors are taken as B' = U·S·(A·V)⁺ and
    A' = A·V·Vᵀ, to which comes what A has outside of both spans where the rank is below r: for an
    update of zero B' = 0 and A' = A.

    Args:
        wide_B: Shape (m, q).
        wide_A: Shape (q, n).
        A: Shape (r, n).

    Returns:
        B' (m, r), A' (r, n), and ‖wanted − B'·A'‖_F/‖wanted‖_F, 0 for an update of zero.
    """
    svd = thin_svd(wide_B, wide_A)
    k = min(len(A), len(svd.s))
    if k == 0:
        return np.zeros((len(wide_B), len(A))), A, 0.0
    V = svd.V[:, :k]
    AV = A @ V  # (r, k)
    inverse = np.linalg.pinv(AV)  # (k, r)
    outside = A - AV @ V.T
    new_B = (svd.U[:, :k] * svd.s[:k]) @ inverse
    new_A = AV @ V.T + outside - AV @ (inverse @ outside)
    left = singular_values(np.hstack([wide_B, -new_B]), np.vstack([wide_A, new_A]))
    return new_B, new_A, float(np.linalg.norm(left) / np.linalg.norm(svd.s))


def _refactored(mean: Array, rank: int) -> tuple[Array, Array, float]:
    """B = U·√S (m, r) and A = √S·Vᵀ (r, n) of the best update of rank r, and its relative error."""
    B, A = np.zeros((len(mean), rank)), np.zeros((rank, mean.shape[1]))
    if not mean.any():
        return B, A, 0.0
    U, s, Vh = leading_directions(mean, rank, None)
    root = np.sqrt(s)
    B[:, : len(s)], A[: len(s)] = U * root, root[:, None] * Vh
    return B, A, float(np.linalg.norm(mean - B @ A) / np.linalg.norm(mean))


def _parameters(branches: Sequence[Branch]) -> list[tuple[str, torch.Tensor]]:
    pairs = ((branch, part) for branch in branches for part in "BA")
    return [(f"{branch.name}.{part}", getattr(branch, part)) for branch, part in pairs]


def _mixed(mean: torch.Tensor, now: torch.Tensor, eta: float) -> torch.Tensor:
    """eta·mean + (1 − eta)·now, exactly `mean` for 1 and `now` for 0."""
    return torch.lerp(now, mean, eta)


@torch.no_grad()
def _update(branch: Branch) -> torch.Tensor:
    return branch.s * branch.B @ branch.A


def _double(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.cpu().double().numpy())


def _export(model: Any, mean: _Mean, folder: Path) -> Mapping[str, Any]:
    mean.deploy()
    model.save_pretrained(folder, save_embedding_layers=False)
    return {"truncation_error": mean.error}
