"""What does taking modules out of an adapter save when a model runs with it?

    python benchmarks/cost.py evidence/smollm2/study.toml harmless-1

Takes the modules that `s3lora` chooses at each share out of one adapter of a study, whose aligned
model and adapter must be there, and times prefill and decode of the model with what is left beside
its weights, as PEFT serves it, without any adapter, and with the updates merged. The states take
turns, so that a busy machine slows all alike; ratios are medians over the rounds, each against the
whole adapter in the same round. Peak memory is that of a process that does nothing else. Writes
results/cost.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel

from s3lora import TopK, open_adapter, prune, scan
from s3lora.lab.chat import padded, prompt_ids
from s3lora.lab.metrics.cost import Latency, latency, lora_size, memory_peak
from s3lora.lab.models import Chat, load_chat
from s3lora.lab.recipes import tested
from s3lora.lab.study.config import read_study
from s3lora.lab.study.workshop import Workshop

RESULTS = Path(__file__).parent / "results" / "cost.json"
SHARES = (0.05, 0.1, 0.25, 0.5)
WHOLE, NONE, MERGED = "whole adapter", "no adapter", "merged"
BATCHES = (1, 8)
NEW_TOKENS = 16
LONGEST = 64
"""Tokens of a prompt, its last ones."""


@dataclass(frozen=True, slots=True)
class State:
    """A model as it is served."""

    name: str
    model: Any
    modules: int
    parameters: int


def folders(source: Path, scratch: Path) -> Iterator[tuple[str, Path | None]]:
    """The adapter and what is left of it, each in a folder."""
    yield NONE, None
    yield WHOLE, source
    adapter = open_adapter(source)
    table = scan(adapter, "s3lora")
    for share in SHARES:
        out = scratch / f"{share:g}"
        prune(adapter, TopK(ceil(share * len(adapter.names)))(table), out, table=table)
        yield f"less {share:.0%}", out


def loaded(base: str, folder: Path | None) -> Any:
    """A model of its own, with an adapter beside its weights."""
    model: Any = load_chat(base).model
    return model if folder is None else PeftModel.from_pretrained(model, str(folder)).eval()


def states(base: str, served: dict[str, Path | None]) -> Iterator[State]:
    """All of them, at hand at once."""
    for name, folder in served.items():
        model = loaded(base, folder)
        size = lora_size(model)
        yield State(name, model, size.modules, size.parameters)
    yield State(MERGED, loaded(base, served[WHOLE]).merge_and_unload().eval(), 0, 0)


def prompts(shop: Workshop, chat: Chat, count: int) -> torch.Tensor:
    """Harmless test prompts as one batch, shape (count, length), filled up on the left."""
    rows = [prompt_ids(chat.tokenizer, e.prompt) for e in tested("harmless", shop.pools)[1][:count]]
    return torch.tensor(padded(rows, chat.tokenizer.pad_token_id, left=True))[:, -LONGEST:]


def rounds(every: list[State], asked: torch.Tensor, count: int) -> list[dict[str, Latency]]:
    """One timing of each state per round."""
    return [
        {state.name: latency(state.model, asked, NEW_TOKENS, 1) for state in every}
        for _ in range(count)
    ]


def figures(told: list[dict[str, Latency]], name: str) -> dict[str, float]:
    """Milliseconds, and ratios to the whole adapter."""
    out: dict[str, float] = {}
    for what in ("prefill", "decode"):
        mine = [getattr(each[name], what) for each in told]
        whole = [getattr(each[WHOLE], what) for each in told]
        out[f"{what}_ms"] = round(1e3 * median(mine), 2)
        out[f"{what}_ratio"] = round(median(a / b for a, b in zip(mine, whole, strict=True)), 3)
    return out


def peak(base: str, folder: Path | None, asked: torch.Tensor, out: Any) -> None:
    """In a process of its own: load, answer once, and tell the largest resident memory."""
    latency(loaded(base, folder), asked, NEW_TOKENS, 1)
    out.put(memory_peak())


def peak_of(base: str, folder: Path | None, asked: torch.Tensor) -> float:
    """MiB."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=peak, args=(base, folder, asked, out))
    process.start()
    found: float = out.get()
    process.join()
    return round(found)


def main() -> None:
    """Measure, print and write."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("study", type=Path)
    arguments.add_argument("adapter")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    shop = Workshop(read_study(given.study), print)
    base, source = str(shop.aligned()), shop.study.folder / "adapters" / given.adapter
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as scratch:
        served = dict(folders(source, Path(scratch)))
        asked = prompts(shop, load_chat(base), max(BATCHES))
        # First: a process starts with the peak of the one that starts it.
        peaks = {name: peak_of(base, folder, asked) for name, folder in served.items()}
        every = list(states(base, served))
    for state in every:
        rows[state.name] = {"modules": state.modules, "parameters": state.parameters}
        rows[state.name]["peak_mib"] = peaks.get(state.name)
    for batch in BATCHES:
        told = rounds(every, asked[:batch], given.rounds)
        for state in every:
            rows[state.name][f"batch_{batch}"] = figures(told, state.name)
    for name, row in rows.items():
        print(f"{name}: {row}")
    RESULTS.write_text(json.dumps(_record(given, rows), indent=1) + "\n", encoding="utf-8")


def _record(given: argparse.Namespace, rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "study": str(given.study),
        "adapter": given.adapter,
        "rounds": given.rounds,
        "new_tokens": NEW_TOKENS,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "states": rows,
    }


if __name__ == "__main__":
    main()
