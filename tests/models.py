"""Tiny models built from configs, adapters on them that look trained, and how they are loaded."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

torch.set_num_threads(1)

Base = Callable[[], PreTrainedModel]

VOCABULARY = 32
TOKENS = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY
"""Two sequences that hold most of the vocabulary."""

PREFIX = "base_model.model."

ALWAYS_WARNED = "`is_gradient_checkpointing` is deprecated"
"""PEFT 0.21 with transformers 5.23 warns of this for every adapter, pruned or not."""


def llama() -> LlamaForCausalLM:
    """Four layers with grouped key and value heads; embedding and head are not tied."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return _built(LlamaForCausalLM, config)


def gpt2() -> GPT2LMHeadModel:
    """Two layers of Conv1D, which stores its weights transposed (fan_in_fan_out) and has biases."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _built(GPT2LMHeadModel, config)


def mixtral() -> MixtralForCausalLM:
    """Two layers with four experts each, whose weights are stacked in two parameters."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    return _built(MixtralForCausalLM, config)


def _built(model_class: type[PreTrainedModel], config: Any) -> Any:
    """A model with seeded weights, biases that are not zero, ready for inference."""
    torch.manual_seed(0)
    model = model_class(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * (0.05 if parameter.ndim == 1 else 0.2))
    return model.eval()


def save_adapter(folder: Path, base: Base, **lora: Any) -> Path:
    """Save an adapter as PEFT does after training: both factors filled, and what is saved whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says of odd settings is not what is tested
        model = get_peft_model(base(), LoraConfig(**{"r": 4, "lora_alpha": 8} | lora))
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.3)
        model.save_pretrained(folder)
    return folder


def load(base: Base, folder: Path, **options: Any) -> PeftModel:
    """A fresh base with an adapter on it, in evaluation mode."""
    return PeftModel.from_pretrained(base(), str(folder), **options).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    """What the model says to `TOKENS`, in float32."""
    with torch.no_grad():
        said = model(input_ids=TOKENS).logits
    assert said.dtype == torch.float32
    return said


def lora_layers(model: torch.nn.Module, adapter: str = "default") -> dict[str, LoraLayer]:
    """The modules and stacked parameters on which an adapter has factors, by name in the base."""
    layers = {}
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and adapter in {*layer.lora_A, *layer.lora_embedding_A}:
            name = path.removeprefix(PREFIX)
            if hasattr(layer, "parameter_name"):
                name = re.sub(r"(\.base_layer)+$", "", name) + f".{layer.parameter_name}"
            layers[name] = layer
    return layers


def zero_b(model: torch.nn.Module, names: Iterable[str], adapter: str = "default") -> None:
    """Set B = 0 in modules, or in single experts of a stack: `….experts.gate_up_proj[3]`."""
    layers = lora_layers(model, adapter)
    for name in names:
        stack, _, expert = name.rstrip("]").partition("[")
        layer = layers[stack]
        if adapter in layer.lora_embedding_B:
            layer.lora_embedding_B[adapter].data.zero_()
        elif expert:
            layer.lora_B[adapter].weight.data[:, int(expert) :: layer.num_experts] = 0
        else:
            layer.lora_B[adapter].weight.data.zero_()


def take_out(model: torch.nn.Module, names: Iterable[str], base: PreTrainedModel) -> None:
    """Put the base model's own module back in place of LoRA layers."""
    for name in names:
        owner, _, leaf = f"{PREFIX}{name}".rpartition(".")
        setattr(model.get_submodule(owner), leaf, base.get_submodule(name))


@contextmanager
def nothing_said() -> Iterator[None]:
    """Fail on any warning, and on anything that transformers or PEFT log as one."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("", "transformers", "peft", "accelerate")]
    transformers_logging.warning_once.cache_clear()  # what was said before is not yet said here
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=ALWAYS_WARNED, category=FutureWarning)
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert said == []
