"""What a defence is: what it needs, and what it does to one training from start to export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from peft.tuners.lora import Linear, LoraLayer
from transformers import TrainerCallback

from s3lora.adapter import LoraModule, ModuleName
from s3lora.errors import ParameterError
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.data import Example
from s3lora.lab.settings import Settings

WRAPPED = "base_model.model."
"""What PEFT puts before the names of a model's modules."""

NAME = "default"
"""What PEFT calls the adapter."""

Kept = Mapping[str, torch.Tensor]
"""What a defence carries from one step to the next, by name; saved with every checkpoint."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training that is about to begin, or to go on."""

    model: Any
    """Wrapped by PEFT; every B is 0."""
    tokenizer: Any
    settings: Settings
    tasks: Sequence[Example]
    """The rows that are trained on."""
    safety: Sequence[Example] = ()
    """Harmful prompts with safe responses."""
    base: Checkpoint | None = None
    """The weights before alignment."""
    saved: Kept | None = None
    """What `Guard.kept` gave when the checkpoint was made that this training goes on from."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What a defence does in one training; what is left out does nothing."""

    callbacks: tuple[TrainerCallback, ...] = ()
    penalty: Callable[[], torch.Tensor] | None = None
    """A scalar to add to the loss of every step, of the parameters as they are."""
    kept: Callable[[], Kept] = dict
    """What must be known to go on as if nothing had happened; called after any step."""
    export: Callable[[Path], Mapping[str, Any]] | None = None
    """Write the adapter into a folder and return figures for the card; None: as PEFT saves it."""


class Defence(Protocol):
    """A frozen dataclass; its fields are its parameters."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Beside the rows to train on: "safety", "base", both or none."""

    def begin(self, run: Run) -> Guard:
        """Change the model as the defence asks for before the first step.

        With `run.saved` the same is done from that, so that the training goes on exactly. The
        adapter's own factors come from the checkpoint, after this.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """The LoRA branch of one module while it is trained: W·x + s·B·A·x."""

    name: ModuleName
    """Full path in the base model."""
    layer: Any
    """PEFT's `lora.Linear`."""

    @property
    def A(self) -> torch.Tensor:  # noqa: N802  the name in the papers
        """The parameter, shape (r, n)."""
        return self.layer.lora_A[NAME].weight

    @property
    def B(self) -> torch.Tensor:  # noqa: N802  the name in the papers
        """The parameter, shape (m, r)."""
        return self.layer.lora_B[NAME].weight

    @property
    def s(self) -> float:
        """The scaling."""
        return float(self.layer.scaling[NAME])

    @property
    def W(self) -> torch.Tensor:  # noqa: N802  the name in the papers
        """The frozen weight, shape (m, n); changing it in place changes the model."""
        weight = self.layer.get_base_layer().weight.data
        return weight.T if self.layer.fan_in_fan_out else weight

    @torch.no_grad()
    def set(self, B: Any, A: Any) -> None:
        """Give the factors these values, arrays or tensors."""
        self.B.copy_(torch.as_tensor(B))
        self.A.copy_(torch.as_tensor(A))

    def module(self) -> LoraModule:
        """The update as it is now, in float64."""
        A, B = (p.detach().cpu().double().numpy() for p in (self.A, self.B))
        return LoraModule(self.name, A, B, self.s)


def branches_of(model: Any) -> tuple[Branch, ...]:
    """The LoRA branches of a model in its own order.

    Raises:
        ParameterError: if one is not on a plain linear module.
    """
    found = []
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = path.removeprefix(WRAPPED)
        if not isinstance(layer, Linear):
            raise ParameterError(
                f"{name} is no linear module: defences work on linear ones",
                hint="leave it out of --targets",
            )
        found.append(Branch(ModuleName(name), layer))
    return tuple(found)


def params_of(defence: Defence) -> dict[str, Any]:
    """The parameters of a defence by name."""
    return dataclasses.asdict(defence)  # type: ignore[call-overload]


def refuse_missing(defence: Defence, *, safety: bool, base: bool) -> None:
    """Refuse a defence that lacks what it needs.

    Raises:
        ParameterError: naming what is missing.
    """
    given = {"safety": safety, "base": base}
    hints = {
        "safety": "give harmful prompts with safe responses: --safety REF, or train(safety=…)",
        "base": "give the weights before alignment: --base M, or train(base=…)",
    }
    for need in sorted(defence.needs):
        if not given[need]:
            what = {"safety": "safety rows", "base": "base weights"}[need]
            raise ParameterError(f"the defence {defence.name} needs {what}", hint=hints[need])
