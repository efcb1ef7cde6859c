"""What PEFT makes of an adapter: its live modules, their updates, and what becomes of the base."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from peft.utils.save_and_load import get_base_model_state_dict
from torch import nn

from architectures import fresh
from s3lora.adapter import Adapter, Slot

Array = NDArray[Any]
PREFIX = "base_model.model."
ADAPTER = "default"


@dataclass(frozen=True)
class Update:
    """One weight matrix that PEFT adapts."""

    rank: int
    scaling: float
    A: Array
    """As PEFT holds it: (r, n), of a convolution with its kernel; of an expert its own part."""
    B: Array
    delta: Array
    """The update by `get_delta_weight` in the layout of B·A, (m, n); a kernel is flattened."""

    @property
    def live(self) -> bool:
        """Whether it changes anything; an orthogonal start has factors and an update of zero."""
        if np.isnan(self.delta).any():
            return bool(np.any(self.A) and np.any(self.B))
        sizes = abs(self.scaling) * np.abs(self.A).max() * np.abs(self.B).max()
        return bool(np.abs(self.delta).max() > 1e-5 * sizes)


@dataclass(frozen=True)
class Reading:
    """A model with an adapter on it, as PEFT loaded it."""

    model: PeftModel
    updates: dict[str, Update]
    """By the name that s3lora gives the matrix."""
    replaced: frozenset[str]
    """Names of the base model's tensors whose values are other ones now."""


@contextmanager
def quietly() -> Iterator[None]:
    """Without what PEFT and transformers print and warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def loaded(name: str, folder: Path) -> PeftModel:
    """A fresh model with the adapter in a folder; PEFT's own start is always the same."""
    with quietly():
        torch.manual_seed(2)
        return PeftModel.from_pretrained(fresh(name), str(folder)).eval()


def reading(name: str, folder: Path) -> Reading:
    """Load an adapter with PEFT and read the result out; raises whatever PEFT raises."""
    model = loaded(name, folder)
    updates = {
        matrix: update
        for path, layer in layers(model).items()
        for matrix, update in _updates(path, layer)
    }
    return Reading(model, updates, frozenset(_replaced(model, fresh(name))))


def layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The LoRA layers by the name of the module or parameter in the base model."""
    found: dict[str, LoraLayer] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in {*layer.lora_A, *layer.lora_embedding_A}:
            name = re.sub(r"\.base_layer(?=\.|$)", "", path.removeprefix(PREFIX))
            if isinstance(layer, ParamWrapper):
                name += f".{layer.parameter_name}"
            found[name] = layer
    return found


def _updates(name: str, layer: LoraLayer) -> Iterator[tuple[str, Update]]:
    """The matrices of a layer: one, or one for each expert of a stack."""
    rank, scaling = layer.r[ADAPTER], float(layer.scaling[ADAPTER])
    if isinstance(layer, Embedding):
        factors = (layer.lora_embedding_A[ADAPTER], layer.lora_embedding_B[ADAPTER])
    else:
        factors = (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
    A, B = (factor.detach().numpy() for factor in factors)
    delta = _delta(layer)
    if not isinstance(layer, ParamWrapper) or delta.ndim == 2:
        matrix = name if not isinstance(layer, ParamWrapper) else f"{name}[0]"
        yield matrix, Update(rank, scaling, A, B, delta.reshape(len(delta), -1))
        return
    experts = layer.num_experts
    for expert in range(experts):
        part = (A[expert * rank : (expert + 1) * rank], B[:, expert::experts])
        yield f"{name}[{expert}]", Update(rank, scaling, *part, delta[expert])


def _delta(layer: LoraLayer) -> Array:
    """The update of a layer; of a grouped convolution, for which PEFT has none, NaN."""
    if getattr(layer.get_base_layer(), "groups", 1) > 1:
        return np.full((1, 1), np.nan)
    delta: Array = layer.get_delta_weight(ADAPTER).detach().numpy()
    if isinstance(layer, ParamWrapper):
        stored_in_out = delta.ndim == 3 and not layer._did_swap_in_out_features
        return delta.swapaxes(1, 2) if stored_in_out else delta
    if isinstance(layer, Embedding):
        return delta
    return delta.T if getattr(layer, "fan_in_fan_out", False) else delta


def _replaced(model: PeftModel, base: nn.Module) -> Iterator[str]:
    """Names of tensors of the base model that are not what they were."""
    before = base.state_dict()
    for name, tensor in get_base_model_state_dict(model).items():
        if name in before and not torch.equal(tensor, before[name]):
            yield name
    for path, wrapper in model.base_model.model.named_modules():
        if isinstance(wrapper, ModulesToSaveWrapper) and ADAPTER in wrapper.modules_to_save:
            for leaf, tensor in wrapper.modules_to_save[ADAPTER].state_dict().items():
                if not torch.equal(tensor, wrapper.original_module.state_dict()[leaf]):
                    yield f"{path}.{leaf}"
        elif isinstance(wrapper, TrainableTokensWrapper):
            yield f"{path}.weight"


def merged(model: PeftModel) -> dict[str, torch.Tensor]:
    """The weights of the model with the adapter merged into them; the model is used up."""
    with quietly():
        weights: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return weights


def without(
    peft: Reading, adapter: Adapter, gone: Iterable[str], base: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The merged weights if some modules had never been adapted; the reading is used up.

    A plain update is taken out by B = 0. Where that is not enough (DoRA, a start cut out of the
    base, a bias), the weights of the base model stand in its place, or what the file has for them.
    """
    whole: set[str] = set()
    for name in gone:
        slot = adapter.slots[name]
        if slot.unscored:
            whole.add(name)
        else:
            _zero(layers(peft.model)[slot.parameter or name], slot)
    weights = merged(peft.model)
    for name in whole:
        for leaf in ("weight", "bias"):
            key = f"{name}.{leaf}"
            if key in weights:
                carried = [f"{PREFIX}{name}.base_layer.{leaf}", f"{PREFIX}{key}"]
                found = [adapter.tensors.read(k) for k in carried if k in adapter.tensors.infos]
                weights[key] = torch.from_numpy(found[0].copy()) if found else base[key]
    return weights


def shares_weight(model: nn.Module, name: str) -> bool:
    """Whether the weight of a module is another one's too."""
    places = [p.data_ptr() for p in model.state_dict().values()]
    return places.count(model.get_submodule(name).weight.data_ptr()) > 1  # type: ignore[union-attr,operator]


def _zero(layer: LoraLayer, slot: Slot) -> None:
    if isinstance(layer, Embedding):
        layer.lora_embedding_B[ADAPTER].data.zero_()
    else:
        B = layer.lora_B[ADAPTER].weight.data
        B[:, slot.expert :: slot.experts] = 0
