"""Writing a plain PEFT adapter whose factors are not those of the model that was trained."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from s3lora.adapter import ModuleName
from s3lora.io.sources import WEIGHTS
from s3lora.lab.defences.interface import NAME, WRAPPED


class Factors(NamedTuple):
    """B·A of one module."""

    B: torch.Tensor
    """Shape (m, r)."""
    A: torch.Tensor
    """Shape (r, n)."""

    def beside(self, other: Factors) -> Factors:
        """The factors of the sum of both, at the summed rank."""
        return Factors(torch.cat([self.B, other.B], dim=1), torch.cat([self.A, other.A]))


def write_factors(
    model: Any, modules: Mapping[ModuleName, Factors], folder: Path, *, alpha: float, rank: int
) -> None:
    """Write the adapter whose updates are (alpha/rank)·B·A, as PEFT would.

    Args:
        model: Wrapped by PEFT; its config is the pattern.
        modules: By full name in the base model.
        folder: An existing folder.
        alpha: Over `rank`, the scale of all modules, whatever their own rank is.
        rank: Any; the config names the most common one of the modules, and the others by name.
    """
    ranks = {name: len(factors.A) for name, factors in modules.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: r for name, r in ranks.items() if r != usual}
    config = copy.deepcopy(model.peft_config[NAME])
    config.r, config.lora_alpha = usual, alpha / rank * usual
    config.rank_pattern = others
    config.alpha_pattern = {name: alpha / rank * r for name, r in others.items()}
    config.target_modules, config.layers_to_transform = sorted(modules), None
    config.inference_mode = True
    if not config.base_model_name_or_path:
        config.base_model_name_or_path = getattr(model.get_base_model(), "name_or_path", None)
    config.save_pretrained(str(folder))
    tensors = {
        f"{WRAPPED}{name}.lora_{part}.weight": factor.detach().float().cpu().contiguous()
        for name, factors in modules.items()
        for part, factor in (("A", factors.A), ("B", factors.B))
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
