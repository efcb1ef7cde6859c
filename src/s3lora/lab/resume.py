"""Asking a model again after a change in its upper layers: what the lower ones gave is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from s3lora.errors import ParameterError
from s3lora.lab.generate import log_probabilities
from s3lora.lab.packing import Continuation, packs


class Resumed:
    """The continuations of a probe on a model of which one layer at a time changes.

    Cost
        A change in layer d of D costs (D − d)/D of a pass; the hidden states of all layers are kept
        in memory, tokens × width × D numbers.
    """

    def __init__(self, model: Any, continuations: Sequence[Continuation]) -> None:
        """Ask once, and keep what goes into every layer.

        Raises:
            ParameterError: if the model has no stack of layers.
        """
        self.model = model
        self.layers = _stack(model)
        self.packs = list(packs(continuations))
        self.states: list[list[torch.Tensor]] = []
        self.means = self._asked(self._recording)

    def depth(self, name: str) -> int:
        """The layer that a module is in; 0 for one that is in none, so that all is asked anew."""
        for at, layer in enumerate(self.layers):
            if any(part is self.model.get_submodule(name) for part in layer.modules()):
                return at
        return 0

    def means_from(self, depth: int) -> list[float]:
        """Mean log-probability per token of each continuation, where layers below are unchanged."""
        return self._asked(lambda at: self._skipping(depth, self.states[at]))

    def _asked(self, context: Any) -> list[float]:
        means: list[float] = []
        with torch.inference_mode():
            for at, pack in enumerate(self.packs):
                with context(at):
                    values = log_probabilities(self.model, pack)
                means += [part.mean().item() for part in values.split(pack.lengths)]
        return means

    @contextmanager
    def _recording(self, at: int) -> Iterator[None]:
        states: list[torch.Tensor] = []

        def keep(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            states.append(inputs[0] if inputs else named["hidden_states"])

        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in self.layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.states.append(states)

    @contextmanager
    def _skipping(self, depth: int, states: list[torch.Tensor]) -> Iterator[None]:
        """Have every layer below `depth` hand on what goes into layer `depth`."""

        def hand_on(*inputs: Any, **named: Any) -> torch.Tensor:
            return states[depth]

        skipped = list(self.layers)[:depth]
        for layer in skipped:
            layer.forward = hand_on
        try:
            yield
        finally:
            for layer in skipped:
                del layer.forward  # the method of the class is there again


def _stack(model: Any) -> torch.nn.ModuleList:
    """The model's layers: its longest list of modules."""
    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    if not lists:
        raise ParameterError("the model has no stack of layers", hint="use a decoder of layers")
    return max(lists, key=len)
