"""`lox`: training starts where alignment is amplified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from s3lora.adapter import ModuleName
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.extrapolate import EMBEDDINGS, leading_directions
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.defences.interface import Guard, Kept, Run, branches_of
from s3lora.lab.defences.stacked import Factors, write_factors
from s3lora.linalg import Array


@dataclass(frozen=True, slots=True)
class Lox:
    """LoRA on W_aligned + alpha·(the top k part of W_aligned − W_base), exported on W_aligned.

    The model that is trained on is taken for the aligned one. Every linear module that alignment
    changed is extrapolated, as `s3lora extrapolate` does it: all but embeddings and the head,
    whether or not it gets an update. The adapter that is written is a plain one for the aligned
    model as it was, with a scale of 1: the modules that were trained have rank r + k, all others
    rank k.

    Source
        Paper: LoX, 2025, arXiv 2506.15606 (COLM 2025).  Code: VITA-Group/LoX.
    Deviations
        The paper tunes all weights; here it is LoRA. Embeddings and the head are left alone, and
        the difference is not taken in bfloat16. k = 6 is what it used for its longest alignment;
        3 for most others.
    Cost
        Before training a truncated SVD for each linear module. The adapter is larger by k(m + n)
        numbers for each.
    """

    k: int = 6
    """How many directions of the difference, at least 1."""
    alpha: float = 1.25
    """How much is added; 0 is plain LoRA."""

    name: ClassVar[str] = "lox"
    needs: ClassVar[frozenset[str]] = frozenset({"base"})

    def __post_init__(self) -> None:
        if self.k < 1 or not np.isfinite(self.alpha):
            raise ParameterError(
                f"lox cannot take k={self.k}, alpha={self.alpha}",
                hint="k at least 1, a finite alpha",
            )

    def begin(self, run: Run) -> Guard:
        """Add the amplified directions to the frozen weights."""
        weights = dict(_frozen(run.model))
        kept = run.saved if run.saved is not None else dict(self._prepared(run.base, weights))
        parts = _parts(kept)
        for name, part in parts.items():
            W = weights[name].W
            W.add_((part.B @ part.A).to(W))
        return Guard(kept=lambda: kept, export=partial(_export, run.model, parts))

    def _prepared(
        self, base: Checkpoint | None, weights: Mapping[ModuleName, _Frozen]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """B = alpha·U_k·√S_k and A = √S_k·V_kᵀ of every module that alignment changed."""
        assert base is not None  # noqa: S101  refuse_missing has seen to it
        found = False
        for name, frozen in weights.items():
            D = _difference(name, frozen, base)
            if not D.any():
                continue
            found = True
            U, s, Vh = leading_directions(D, self.k, None)
            root = np.sqrt(s)
            for part, factor in (("B", self.alpha * U * root), ("A", root[:, None] * Vh)):
                yield f"{name}.{part}", torch.from_numpy(factor).float().contiguous()
        if not found:
            raise ParameterError(
                "the model and the base weights are identical",
                hint="--base is the model before alignment, --model the one after it",
            )


class _Frozen(NamedTuple):
    """The frozen weight of a linear module."""

    stored: torch.Tensor
    transposed: bool
    """Whether it is stored as (n, m)."""

    @property
    def W(self) -> torch.Tensor:  # noqa: N802  the name in the papers
        """A view, shape (m, n)."""
        return self.stored.T if self.transposed else self.stored


def _frozen(model: Any) -> Iterator[tuple[ModuleName, _Frozen]]:
    """The frozen weights of the linear modules by name, without embeddings and head."""
    for path, layer in model.get_base_model().named_modules():
        name = path.removesuffix(".base_layer")
        factor = any(piece.startswith("lora_") for piece in path.split("."))
        kind = isinstance(layer, torch.nn.Linear | Conv1D)
        if kind and not factor and name.split(".")[-1] not in EMBEDDINGS:
            yield ModuleName(name), _Frozen(layer.weight.data, isinstance(layer, Conv1D))


def _difference(name: ModuleName, frozen: _Frozen, base: Checkpoint) -> Array:
    """W_aligned − W_base, shape (m, n), float64."""
    aligned = frozen.stored.cpu().double().numpy()
    D: Array = aligned - base.plain(name, expected=aligned.shape)
    if not np.isfinite(D).all():
        raise UnsupportedError(
            f"{name} holds NaN or Inf in the base or the aligned weights",
            hint="give two whole models",
        )
    return D.T if frozen.transposed else D


def _parts(kept: Kept) -> dict[ModuleName, Factors]:
    names = [key.removesuffix(".B") for key in kept if key.endswith(".B")]
    return {ModuleName(name): Factors(kept[f"{name}.B"], kept[f"{name}.A"]) for name in names}


def _export(model: Any, parts: Mapping[ModuleName, Factors], folder: Path) -> Mapping[str, Any]:
    modules = dict(parts)
    for branch in branches_of(model):
        tuned = Factors(branch.s * branch.B.detach().cpu(), branch.A.detach().cpu())
        part = parts.get(branch.name)
        modules[branch.name] = tuned.beside(part) if part else tuned
    write_factors(model, modules, folder, alpha=1.0, rank=1)
    return {"extrapolated": len(parts)}
