"""Short trainings of the tiny model with a defence, and what they are held against."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from lab_material import made_rows, tiny, tiny_folder
from s3lora import open_adapter
from s3lora.lab.defences.interface import Run, branches_of
from s3lora.lab.models import Chat, load_chat
from s3lora.lab.settings import Settings, with_lora
from s3lora.lab.train import train
from schemas import check

torch.set_num_threads(1)

ROWS = made_rows("row", 24, answered=True)
SAFETY = [replace(row, response="No, I can not.") for row in made_rows("bad", 16, answered=False)]
SHORT = Settings(rank=2, steps=9, batch=3, save_every=3, targets=("q_proj", "v_proj"), rate=1e-2)
"""s is 8."""


def trained(out: Path, defence: Any, *, chat: Chat | None = None, **rest: Any) -> Path:
    """An adapter trained for nine steps, its card checked; fields of the settings may be given."""
    fields = {key: rest.pop(key) for key in list(rest) if hasattr(SHORT, key)}
    train(chat or tiny(), ROWS, out, replace(SHORT, **fields), defence=defence, **rest)
    check("training", card_of(out))
    return out


def begun(chat: Chat | None = None, base: Any = None, **fields: Any) -> Run:
    """A training that a defence has yet to begin."""
    chat, settings = chat or tiny(), replace(SHORT, **fields)
    torch.manual_seed(settings.seed)
    model = with_lora(chat.model, settings)
    return Run(model.eval(), chat.tokenizer, settings, ROWS, SAFETY, base)


class Killed(BaseException):
    """In place of a signal."""


class Kill(TrainerCallback):
    """Stops after a step, before its checkpoint is written if there is one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == self.step:
            raise Killed


def unaligned() -> Chat:
    """The tiny model, for one before alignment."""
    return tiny()


@functools.cache
def _aligned_folder() -> Path:
    chat = tiny()
    torch.manual_seed(11)
    for name, parameter in chat.model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    folder = tiny_folder().with_name("aligned")
    chat.model.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    return folder


def aligned() -> Chat:
    """The tiny model with all linear modules changed."""
    return load_chat(str(_aligned_folder()))


def prompts() -> torch.Tensor:
    """Three sequences of ten tokens."""
    return torch.arange(30).reshape(3, 10) * 7 % 250


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """What a model says to `prompts`."""
    return model(input_ids=prompts()).logits


def updates(folder: Path) -> dict[str, np.ndarray]:
    """s·B·A of every module of an adapter."""
    adapter = open_adapter(folder)
    modules = {name: adapter.read(name) for name in adapter.names}
    return {name: m.scaling * m.B @ m.A for name, m in modules.items()}


def card_of(folder: Path) -> dict[str, Any]:
    """training.json of an adapter."""
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def shaken(model: Any) -> None:
    """Factors that are anything but those of the start."""
    torch.manual_seed(5)
    for branch in branches_of(model):
        branch.set(torch.randn(branch.B.shape), torch.randn(branch.A.shape))


class Each(TrainerCallback):
    """Calls a function after every step, before a checkpoint is written."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self.function = function

    def on_step_end(self, args, state, control, model=None, **rest):
        self.function(model)


def best(D: np.ndarray, k: int) -> np.ndarray:
    """The best approximation of rank k."""
    U, s, Vh = np.linalg.svd(D, full_matrices=False)
    return (U[:, :k] * s[:k]) @ Vh[:k]
