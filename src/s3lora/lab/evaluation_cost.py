"""What a state of an adapter costs: how much LoRA is left, latency, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from s3lora.adapter import Adapter
from s3lora.errors import ParameterError
from s3lora.lab.chat import padded
from s3lora.lab.evaluation_asking import Asked
from s3lora.lab.evaluation_figures import Result
from s3lora.lab.metrics.cost import Latency, LoraSize, latency, lora_size, memory_peak
from s3lora.lab.metrics.intervals import Figure, missing
from s3lora.lab.models import Chat
from s3lora.plan import Plan
from s3lora.prune import apply

REPEATS = 5
BATCH = 4
"""Prompts that latency is measured with, at a time."""
TIMED = f"batch {BATCH} at most, median of {REPEATS}"


def cost(
    chat: Chat, asked: Asked, merged: Latency, adapter: Adapter, planned: Plan
) -> list[Result]:
    """The cost of an adapter after a plan, unmerged: as PEFT loads what `prune` writes.

    Args:
        chat: The model, as it was before any update; it is so again afterwards.
        asked: Gives the prompts.
        merged: The latency with the updates in the weights.
        adapter: The source.
        planned: What becomes of it; nothing, for the adapter itself.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        apply(adapter, planned, folder)
        with _loaded(chat.model, folder) as model:
            size = lora_size(model)
            unmerged = latency(model, prompts(chat, asked), asked.new_tokens, REPEATS)
    return [*_sizes(size), *_times("unmerged", unmerged), *_times("merged", merged)]


def cost_without(merged: Latency) -> list[Result]:
    """The cost of the model without an adapter: there is none to merge."""
    return [*_sizes(LoraSize(0, 0)), *_times("merged", merged)]


def merged_latency(chat: Chat, asked: Asked) -> Latency:
    """Latency of the model as it is now, with the updates in its weights."""
    return latency(chat.model, prompts(chat, asked), asked.new_tokens, REPEATS)


def prompts(chat: Chat, asked: Asked) -> torch.Tensor:
    """Some harmless prompts as one batch, (batch, length), filled up on the left."""
    rows = asked.tokens[len(asked.harmful) :][:BATCH]
    filled = padded(rows, chat.tokenizer.pad_token_id, left=True)
    return torch.tensor(filled, device=chat.model.device)


def peak() -> Figure:
    """Peak memory of this process, for the whole evaluation."""
    name = "peak memory"
    try:
        note = "of the whole evaluation, all states together"
        return Figure(name, memory_peak(), 1, None, None, "MiB", "lower", note)
    except ParameterError as error:
        return missing(name, "MiB", "lower", str(error))


@contextmanager
def _loaded(model: Any, folder: Path) -> Iterator[Any]:
    """The model with an adapter beside its weights; they part when the block ends."""
    loaded = PeftModel.from_pretrained(model, str(folder)).eval()
    try:
        yield loaded
    finally:
        loaded.unload()


def _sizes(size: LoraSize) -> list[Result]:
    told = {"lora_modules": ("LoRA modules", size.modules)}
    told["lora_parameters"] = ("LoRA parameters", size.parameters)
    return [
        Result(key, "cost", Figure(name, value, 1, None, None, "", "lower"))
        for key, (name, value) in told.items()
    ]


def _times(how: str, told: Latency) -> list[Result]:
    times = {"prefill": told.prefill, "decode": told.decode}
    return [
        Result(
            f"{key}_{how}",
            "cost",
            Figure(f"{key}, {how}", value, REPEATS, None, None, "s", "lower", TIMED),
        )
        for key, value in times.items()
    ]
