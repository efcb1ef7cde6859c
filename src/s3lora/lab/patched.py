"""A model whose weights are those it was loaded with, plus any choice of an adapter's updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from s3lora.adapter import Adapter, LoraModule, ModuleName, Slot
from s3lora.errors import ParameterError


class Patched:
    """The updates are merged into the weights, so a pruned adapter is evaluated without saving it.

    W₀ + s·B·A is formed anew from W₀ for every choice: nothing drifts.
    """

    def __init__(self, model: Any, adapter: Adapter) -> None:
        """Remember the weights that the adapter's modules change.

        Raises:
            ParameterError: if the model lacks a module of the adapter, or its weight has another
                shape than the update.
        """
        self.adapter = adapter
        self.model = model.requires_grad_(False)
        self._layers = {name: _layer(model, name) for name in adapter.names}
        for name, layer in self._layers.items():
            _refuse_shape(name, tuple(layer.weight.shape), adapter.slots[name])
        self._weights = {
            name: layer.weight.detach().clone() for name, layer in self._layers.items()
        }
        self._now: dict[ModuleName, LoraModule] = {}

    @torch.no_grad()
    def apply(self, modules: Iterable[LoraModule]) -> None:
        """Give the model exactly these updates; every other module has none."""
        wanted = {module.name: module for module in modules}
        for name in wanted.keys() - self._weights.keys():
            raise ParameterError(
                f"{name} is no module of the adapter {self.adapter.ref}",
                hint="apply modules of the adapter that the model was patched with",
            )
        for name in self._now.keys() - wanted.keys():
            self._layers[name].weight.copy_(self._weights[name])
        for name, module in wanted.items():
            if self._now.get(name) is not module:
                start = self._weights[name]
                update = self._update(module).to(start)
                torch.add(start, update, out=self._layers[name].weight)
        self._now = wanted

    def _update(self, module: LoraModule) -> torch.Tensor:
        """s·B·A in the layout of the model's weight."""
        A = torch.from_numpy(np.asarray(module.A, np.float32))
        B = torch.from_numpy(np.asarray(module.scaling * module.B, np.float32))
        product = B @ A  # (m, n)
        return product.T if self.adapter.slots[module.name].transposed else product

    @contextmanager
    def gates(self, modules: Iterable[LoraModule]) -> Iterator[Mapping[ModuleName, torch.Tensor]]:
        """Scalars g at 1, one a module, on which everything the model computes depends.

        A module's branch counts g times: its output gets (g − 1)·s·B·A·x on top of what the merged
        weight gives. So one backward pass tells what every branch does to a figure, to first order.
        """
        gates: dict[ModuleName, torch.Tensor] = {}
        hooks = []
        for module in modules:
            gate = torch.ones((), requires_grad=True)
            A = torch.from_numpy(np.asarray(module.A, np.float32))
            B = torch.from_numpy(np.asarray(module.scaling * module.B, np.float32))
            hooks.append(self._layers[module.name].register_forward_hook(_branch(gate, A, B)))
            gates[module.name] = gate
        try:
            yield gates
        finally:
            for hook in hooks:
                hook.remove()


def _branch(gate: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> Any:
    def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0]
        return output + (gate - 1).to(x) * ((x @ A.T.to(x)) @ B.T.to(x))

    return add


def _refuse_shape(name: str, shape: tuple[int, ...], slot: Slot) -> None:
    wanted = slot.shape[::-1] if slot.transposed else slot.shape
    if shape != wanted:
        raise ParameterError(
            f"{name} has a weight of shape {shape}, the adapter's update is {wanted}",
            hint="give the model the adapter was trained on; only linear modules are patched",
        )


def _layer(model: Any, name: str) -> Any:
    """The layer of the model that a module of the adapter belongs to."""
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ParameterError(
            f"the model has no module {name}", hint="give the model the adapter was trained on"
        ) from error
