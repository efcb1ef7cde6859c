"""Tiny models of the architectures that adapters are trained on, all from their own config classes.

Weights are random, no model is larger than a few hundred kilobytes, and each is built once: `fresh`
hands out copies.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

VOCABULARY = 40


@dataclass(frozen=True)
class Architecture:
    """How to build a model, and what people say of it in a LoRA config."""

    build: Callable[[], nn.Module]
    endings: tuple[str, ...]
    """Names of projections that people list in `target_modules`."""
    task: str | None = None
    """`task_type`."""
    heads: tuple[str, ...] = ()
    """What `modules_to_save` names."""
    parameters: tuple[str, ...] = ()
    """What `target_parameters` names."""
    layer_list: str | None = "layers"
    """The list of layers; None if there is none that `layers_pattern` could name."""
    embedding: str | None = None
    """The ending of the input embedding's name."""
    all_linear: bool = True
    """Whether PEFT makes an adapter with `all-linear` and the task."""
    excluded: tuple[str, ...] = ()
    """Expressions for `exclude_modules` that this architecture is known for."""


SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STACKED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
DENSE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _model(model: str, config: str, **fields: Any) -> Callable[[], nn.Module]:
    """A model of transformers by the names of its class and of its config's."""

    def build() -> nn.Module:
        settings = getattr(transformers, config)(**fields)
        built: nn.Module = getattr(transformers, model)(settings)
        return built

    return build


def _resized() -> nn.Module:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**DENSE))
    model.resize_token_embeddings(VOCABULARY + 3)
    return model


def _vision_language() -> nn.Module:
    text = {key: value for key, value in DENSE.items() if "token_id" not in key}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1]}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
    vision |= {"out_hidden_size": 16, "patch_size": 4, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _two_towers() -> nn.Module:
    text = {key: value for key, value in DENSE.items() if "token_id" not in key}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=5,
    )
    return transformers.LlavaForConditionalGeneration(config)


class Feedforward(nn.Module):
    """An expert that is a module of its own, as Mixtral's were."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(16, 24, bias=False)
        self.w2 = nn.Linear(24, 16, bias=False)
        self.w3 = nn.Linear(16, 24, bias=False)


class StackedFeedforward(nn.Module):
    """Experts without a gate, in two parameters; the order is not that of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.zeros(3, 24, 16))
        self.down_proj = nn.Parameter(torch.zeros(3, 16, 24))


class Block(nn.Module):
    """A layer with whatever modules it is given."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


class Stack(nn.Module):
    """A model that is no model of transformers: an embedding, layers, a head."""

    def __init__(self, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, 16)
        self.layers = nn.ModuleList(block() for _ in range(2))
        self.head = nn.Linear(16, 4)


def _plain(block: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Stack(block)


def _separate_experts() -> nn.Module:
    experts = nn.ModuleList(Feedforward() for _ in range(3))
    return Block(q_proj=nn.Linear(16, 16), gate=nn.Linear(16, 3), experts=experts)


def _convolutions() -> nn.Module:
    return Block(
        conv=nn.Conv1d(8, 12, 3),
        pointwise=nn.Conv2d(8, 12, 1),
        square=nn.Conv2d(8, 12, (3, 2)),
        depthwise=nn.Conv2d(8, 8, 3, groups=4),
        out=nn.Linear(12, 8),
    )


def _attention() -> nn.Module:
    return Block(attn=nn.MultiheadAttention(16, 2), fc1=nn.Linear(16, 24), fc2=nn.Linear(24, 16))


BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 32,
}
ATTENTION = ("query", "key", "value", "dense")
MOE = DENSE | {"moe_intermediate_size": 12, "num_experts_per_tok": 2}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 32,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
}
NEMOTRON = {
    "layers_block_type": ["mamba", "moe", "attention", "mlp"],
    "mamba_num_heads": 2,
    "mamba_head_dim": 8,
    "ssm_state_size": 4,
    "n_groups": 1,
    "head_dim": 4,
    "n_routed_experts": 4,
    "moe_intermediate_size": 12,
    "moe_shared_expert_intermediate_size": 12,
    "num_experts_per_tok": 2,
    "moe_latent_size": None,
}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        _model("LlamaForCausalLM", "LlamaConfig", **DENSE),
        SEVEN,
        "CAUSAL_LM",
        ("lm_head", "embed_tokens"),
        embedding="embed_tokens",
    ),
    "llama, vocabulary resized": Architecture(
        _resized, SEVEN, "CAUSAL_LM", ("lm_head", "embed_tokens"), embedding="embed_tokens"
    ),
    "qwen2, head tied": Architecture(
        _model("Qwen2ForCausalLM", "Qwen2Config", **DENSE, tie_word_embeddings=True),
        SEVEN,
        "CAUSAL_LM",
        ("lm_head", "embed_tokens"),
        embedding="embed_tokens",
    ),
    "llama, classifier": Architecture(
        _model("LlamaForSequenceClassification", "LlamaConfig", **DENSE, num_labels=3),
        SEVEN,
        "SEQ_CLS",
        ("score",),
        embedding="embed_tokens",
    ),
    "qwen3-moe": Architecture(
        _model("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **MOE, num_experts=4, head_dim=4),
        SEVEN,
        "CAUSAL_LM",
        ("lm_head",),
        STACKED,
        embedding="embed_tokens",
    ),
    "mixtral": Architecture(
        _model("MixtralForCausalLM", "MixtralConfig", **DENSE, num_local_experts=4),
        ("q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"),
        "CAUSAL_LM",
        ("lm_head",),
        STACKED,
        embedding="embed_tokens",
    ),
    "deepseek-v3": Architecture(
        _model("DeepseekV3ForCausalLM", "DeepseekV3Config", **(MOE | LATENT)),
        ("q_a_proj", "q_b_proj", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "CAUSAL_LM",
        ("lm_head",),
        STACKED,
        embedding="embed_tokens",
    ),
    "glm4-moe": Architecture(
        _model(
            "Glm4MoeForCausalLM",
            "Glm4MoeConfig",
            **MOE,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            head_dim=4,
        ),
        SEVEN,
        "CAUSAL_LM",
        ("lm_head",),
        STACKED,
        embedding="embed_tokens",
    ),
    "olmoe": Architecture(
        _model("OlmoeForCausalLM", "OlmoeConfig", **DENSE, num_experts=4, num_experts_per_tok=2),
        SEVEN,
        "CAUSAL_LM",
        ("lm_head",),
        STACKED,
        embedding="embed_tokens",
    ),
    "gpt-oss": Architecture(
        _model("GptOssForCausalLM", "GptOssConfig", **DENSE, num_local_experts=4, head_dim=4),
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        "CAUSAL_LM",
        ("lm_head",),
        STACKED,
        embedding="embed_tokens",
    ),
    "nemotron-h": Architecture(
        _model(
            "NemotronHForCausalLM",
            "NemotronHConfig",
            **{key: value for key, value in DENSE.items() if key != "num_hidden_layers"},
            **NEMOTRON,
        ),
        ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
        "CAUSAL_LM",
        ("lm_head",),
        ("mixer.experts.up_proj", "mixer.experts.down_proj"),
        embedding="embeddings",
        all_linear=False,
    ),
    "experts without gate": Architecture(
        _plain(lambda: Block(q_proj=nn.Linear(16, 16), experts=StackedFeedforward())),
        ("q_proj",),
        parameters=("experts.up_proj", "experts.down_proj"),
        embedding="embed_tokens",
    ),
    "experts as modules": Architecture(
        _plain(_separate_experts),
        ("q_proj", "w1", "w2", "w3", "gate"),
        heads=("head",),
        embedding="embed_tokens",
    ),
    "qwen2.5-vl": Architecture(
        _vision_language,
        ("q_proj", "v_proj", "qkv", "gate_proj", "down_proj"),
        "CAUSAL_LM",
        ("lm_head", "merger"),
        embedding="embed_tokens",
        excluded=(".*visual.*", r".*\.visual\..*"),
    ),
    "llava": Architecture(
        _two_towers,
        ("q_proj", "k_proj", "v_proj", "fc1", "up_proj"),
        "CAUSAL_LM",
        ("multi_modal_projector",),
        embedding="embed_tokens",
        excluded=(".*vision_tower.*", ".*(vision_tower|multi_modal_projector).*"),
    ),
    "t5": Architecture(
        _model("T5ForConditionalGeneration", "T5Config", **T5),
        ("q", "k", "v", "o", "wi", "wo"),
        "SEQ_2_SEQ_LM",
        ("lm_head",),
        layer_list="block",
        embedding="shared",
    ),
    "distilbert, classifier": Architecture(
        _model("DistilBertForSequenceClassification", "DistilBertConfig", **DISTILBERT),
        ("q_lin", "k_lin", "v_lin", "out_lin", "lin1"),
        "SEQ_CLS",
        ("pre_classifier", "classifier"),
        layer_list="layer",
        all_linear=False,
        embedding="word_embeddings",
    ),
    "bert, tokens": Architecture(
        _model("BertForTokenClassification", "BertConfig", **BERT),
        ATTENTION,
        "TOKEN_CLS",
        ("classifier",),
        layer_list="layer",
        all_linear=False,
        embedding="word_embeddings",
    ),
    "bert, answers": Architecture(
        _model("BertForQuestionAnswering", "BertConfig", **BERT),
        ATTENTION,
        "QUESTION_ANS",
        ("qa_outputs",),
        layer_list="layer",
        all_linear=False,
        embedding="word_embeddings",
    ),
    "gpt2": Architecture(
        _model("GPT2LMHeadModel", "GPT2Config", **GPT2),
        ("c_attn", "c_proj", "c_fc"),
        "CAUSAL_LM",
        ("lm_head",),
        layer_list="h",
        embedding="wte",
    ),
    "convolutions": Architecture(
        _plain(_convolutions),
        ("conv", "pointwise", "square", "depthwise", "out"),
        heads=("head",),
    ),
    "attention of torch": Architecture(
        _plain(_attention), ("attn", "fc1", "fc2"), heads=("head",), embedding="embed_tokens"
    ),
}
"""Every kind of module and of naming that PEFT treats in its own way."""

ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.MultiheadAttention)


@cache
def _built(name: str) -> nn.Module:
    """A model with seeded weights, none of them zero."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name].build().eval()
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.2)
    return model


@cache
def _stored(name: str) -> bytes:
    return pickle.dumps(_built(name))


def fresh(name: str) -> nn.Module:
    """A copy of a model, to be changed at will."""
    model: nn.Module = pickle.loads(_stored(name))  # three times as fast as a copy
    return model


@cache
def adaptable(name: str) -> tuple[str, ...]:
    """Full names of the modules that can have a LoRA layer."""
    return tuple(_adaptable(_built(name)))


def _adaptable(model: nn.Module) -> Iterator[str]:
    inside = tuple(
        f"{name}." for name, module in model.named_modules() if isinstance(module, ADAPTABLE)
    )
    for name, module in model.named_modules():
        if isinstance(module, ADAPTABLE) and not name.startswith(inside):
            yield name
