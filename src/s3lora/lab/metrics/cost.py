"""What an adapter costs: memory, time, and how much LoRA is left in a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch

from s3lora.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of greedy generation, medians of the repeats."""

    prefill: float
    """Seconds for the whole prompt, up to the first new token."""
    decode: float
    """Seconds for each further token, for all rows of the batch together."""


@dataclass(frozen=True, slots=True)
class LoraSize:
    """How much LoRA a model carries."""

    modules: int
    """Modules with factors, of any adapter."""
    parameters: int
    """Numbers in these factors (and in DoRA's magnitudes), of all adapters."""


def memory_peak() -> float:
    """The largest resident memory of this process so far, in MiB; it never goes down.

    On Linux a process starts with the peak of the one that started it: measure in one that was
    started by a small one.

    Raises:
        ParameterError: on Windows, which does not keep it.
    """
    try:
        import resource
    except ImportError as error:
        raise ParameterError(
            "peak memory is not known on this system", hint="use Linux or macOS"
        ) from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def latency(
    model: torch.nn.Module, input_ids: torch.Tensor, new_tokens: int = 32, repeats: int = 5
) -> Latency:
    """Time greedy generation with a key-value cache, after one run that does not count.

    No token ends it, so that two models do the same work.

    Args:
        model: A causal language model of transformers or PEFT, in evaluation mode.
        input_ids: Token numbers, shape (batch, length), on the model's device.
        new_tokens: Tokens to decode after the first, at least 1.
        repeats: Timed runs, at least 1.

    Raises:
        ParameterError: if `new_tokens` or `repeats` is less than 1.
    """
    if new_tokens < 1 or repeats < 1:
        raise ParameterError("nothing to time", hint="new_tokens and repeats are at least 1")
    _timed(model, input_ids, new_tokens)
    runs = [_timed(model, input_ids, new_tokens) for _ in range(repeats)]
    return Latency(median(run.prefill for run in runs), median(run.decode for run in runs))


@torch.inference_mode()
def _timed(model: torch.nn.Module, input_ids: torch.Tensor, new_tokens: int) -> Latency:
    start = _now(input_ids)
    said = model(input_ids=input_ids, use_cache=True)
    token = said.logits[:, -1:].argmax(-1)  # (batch, 1)
    first = _now(token)
    for _ in range(new_tokens):
        said = model(input_ids=token, past_key_values=said.past_key_values, use_cache=True)
        token = said.logits[:, -1:].argmax(-1)  # (batch, 1)
    return Latency(first - start, (_now(token) - first) / new_tokens)


def _now(tensor: torch.Tensor) -> float:
    """The clock, once the work on the tensor's device is done."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return perf_counter()


def lora_size(model: torch.nn.Module) -> LoraSize:
    """Count the modules of a model that carry LoRA factors, and the numbers in them."""
    modules = sum(_carries(module) for module in model.modules())
    parameters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in f".{name}")
    return LoraSize(modules, parameters)


def _carries(module: torch.nn.Module) -> bool:
    """Whether a module has factors; PEFT keeps an empty table where it has none of a kind."""
    for kind in ("lora_A", "lora_embedding_A"):
        factors = getattr(module, kind, None)
        empty = isinstance(factors, torch.nn.ModuleDict | torch.nn.ParameterDict) and not factors
        if factors is not None and not empty:
            return True
    return False
