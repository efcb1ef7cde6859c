"""Checkpoints whose tensors are named otherwise than the modules, as transformers does it."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from adapters import draw, write_adapter
from s3lora import open_adapter
from s3lora.cli import cli
from s3lora.errors import ParameterError
from s3lora.io.checkpoint import SINGLE, Checkpoint
from s3lora.io.checkpoint_names import TensorNames, spellings, transformers_names
from s3lora.recover import true_update
from s3lora.scan import scan

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def gemma3() -> Any:
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={**TEXT, "head_dim": 8},
            vision_config=VISION,
            mm_tokens_per_image=4,
            image_token_index=60,
        )
    )


def llava() -> Any:
    vision = {**VISION, "model_type": "clip_vision_model", "projection_dim": 16}
    text = {**TEXT, "model_type": "llama"}
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=60)
    )


def qwen2_5_vl() -> Any:
    rope = {"type": "default", "rope_type": "default", "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 16,
        "patch_size": 4,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**TEXT, "rope_scaling": rope}, vision_config=vision)
    )


def qwen3_moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**TEXT, head_dim=8, **experts))


def mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2))


MODELS: dict[str, Callable[[], Any]] = {
    build.__name__: build for build in (gemma3, llava, qwen2_5_vl, qwen3_moe, mixtral)
}
SEEING = ("gemma3", "llava", "qwen2_5_vl")
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
HUB = {
    "gemma3": ("language_model.model.", "vision_tower.vision_model."),
    "llava": ("language_model.model.", "vision_tower.vision_model."),
    "qwen2_5_vl": ("model.", "visual."),
}
"""How the hub's checkpoints of these models begin the names of both towers."""


def built(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def on_the_hub(folder: Path, name: str) -> None:
    """Give what transformers saved the names that older versions gave it on the hub."""
    if "vision_tower." not in HUB[name][1]:
        return
    tensors = {
        key.replace("vision_tower.", "vision_tower.vision_model."): value
        for key, value in load_file(folder / SINGLE).items()
    }
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


NAMINGS = ("as transformers saves it", "as it is in memory", "as the hub has it")


def save_base(folder: Path, name: str, naming: str) -> Path:
    model = built(name)
    model.save_pretrained(folder, save_original_format=naming != "as it is in memory")
    if naming == "as the hub has it" and name in HUB:
        on_the_hub(folder, name)
        keys = load_file(folder / SINGLE)
        assert all(any(key.startswith(start) for key in keys) for start in HUB[name])
    return folder


def save_adapter(folder: Path, name: str, **lora: Any) -> Path:
    """An adapter on the model, both factors filled, as PEFT saves it after training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(built(name), LoraConfig(r=4, lora_alpha=8, **lora))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return folder


def merged_change(name: str, folder: Path, module: str) -> np.ndarray:
    """By how much PEFT changes a module's weight when it merges the adapter, in float64."""
    before = built(name).double()
    merged = PeftModel.from_pretrained(built(name).double(), str(folder)).merge_and_unload()
    sides = [model.get_submodule(module).weight.detach().numpy() for model in (merged, before)]
    return sides[0] - sides[1]


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("name", MODELS)
def test_the_true_update_of_dora_is_found_under_every_naming(tmp_path, name, naming):
    base = save_base(tmp_path / "base", name, naming)
    targets = r".*(layers|blocks)\.\d+\.(self_attn|attn|mlp)\.(q_proj|v_proj|qkv|gate_proj|fc1)"
    folder = save_adapter(tmp_path / "adapter", name, target_modules=targets, use_dora=True)
    adapter, checkpoint = open_adapter(folder), Checkpoint(base)
    assert any("vis" in module for module in adapter.names) == (name in SEEING)
    table = scan(adapter, base=checkpoint)
    assert [score.module for score in table.scores] == list(adapter.names)
    for module in adapter.names[:: max(1, len(adapter.names) // 4)]:
        found = true_update(adapter, module, checkpoint.matrix(module, adapter.slots[module]))
        wanted = merged_change(name, folder, module)
        np.testing.assert_allclose(found.scaling * found.B @ found.A, wanted, atol=1e-12)


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_matrices_of_stacked_experts_are_found_under_every_naming(tmp_path, name, naming):
    base = save_base(tmp_path / "base", name, naming)
    folder = save_adapter(
        tmp_path / "adapter", name, target_modules=["q_proj"], target_parameters=EXPERTS
    )
    adapter, checkpoint, model = open_adapter(folder), Checkpoint(base), built(name)
    checkpoint.check(adapter, "base")
    experts = {n: slot for n, slot in adapter.slots.items() if slot.kind == "expert"}
    assert len(experts) == 2 * 2 * 4
    layers = {"merged": PeftModel.from_pretrained(built(name), str(folder)).merge_and_unload()}
    for module, slot in experts.items():
        W = checkpoint.matrix(module, slot)
        own = model.get_parameter(slot.parameter).detach()[slot.expert].numpy()
        assert W.shape == slot.shape
        assert np.array_equal(W if W.shape == own.shape else W.T, own)
        tuned = layers["merged"].get_parameter(slot.parameter).detach()[slot.expert].numpy()
        update = adapter.read(module)
        change = update.scaling * update.B @ update.A
        assert np.allclose(W + change, tuned if W.shape == own.shape else tuned.T, atol=1e-5)


def test_the_table_agrees_with_the_mapping_of_transformers(tmp_path):
    """What is found without transformers is what transformers itself would load."""
    for name in SEEING:
        folder = save_base(tmp_path / name, name, NAMINGS[0])
        config = json.loads((folder / "config.json").read_text())
        keys = load_file(folder / SINGLE).keys()
        theirs = transformers_names(keys, config)
        assert theirs, name
        ours = TensorNames(keys, {}, folder)
        for parameter, _ in built(name).named_parameters():
            module = parameter.removesuffix(".weight")
            if module in theirs:
                assert ours.of(module) == (theirs[module],)


def test_names_that_only_transformers_knows_are_asked_of_it(tmp_path, monkeypatch):
    keys = ["embed_out.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"]
    config = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    assert TensorNames(keys, config, tmp_path).of("lm_head") == ("embed_out.weight",)
    assert TensorNames(keys, {}, tmp_path).of("lm_head") == ()
    monkeypatch.setitem(sys.modules, "transformers.conversion_mapping", None)
    assert TensorNames(keys, config, tmp_path).of("lm_head") == ()


@pytest.mark.parametrize("config", [None, [], {"architectures": 3, "model_type": {}}])
def test_a_config_of_other_types_has_no_mapping(config):
    fields = config if isinstance(config, dict) else {"text_config": config}
    assert transformers_names(["a.weight"], fields) == {}


def test_no_spelling_of_a_name_is_itself_again():
    for name in ("model.layers.0.q", "model.language_model.layers.0.q", "lm_head", "a.model.b"):
        found = list(spellings(name))
        assert found[0] == name
        assert len(set(found)) == len(found)


def tied_llama(folder: Path, *, tie: bool) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=tie))
    model.save_pretrained(folder)
    if not tie:  # as a file that lost its head
        tensors = load_file(folder / SINGLE)
        del tensors["lm_head.weight"]
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


HEAD = {"lm_head": (draw(2, 16), draw(64, 2)), "model.layers.0.self_attn.q_proj": None}


@pytest.mark.parametrize("also", [[], ["embedding"]])
def test_a_tied_output_layer_has_the_weights_of_the_embedding(tmp_path, also):
    base = tied_llama(tmp_path / "base", tie=True)
    targets = ["q_proj", "lm_head"] + ["embed_tokens"] * bool(also)
    q = (draw(2, 16, seed=2), draw(16, 2, seed=3))
    extra = {}
    if also:
        prefix = "base_model.model.model.embed_tokens."
        extra = {
            f"{prefix}lora_embedding_A": draw(2, 64),
            f"{prefix}lora_embedding_B": draw(16, 2),
        }
    folder = write_adapter(
        tmp_path / "a",
        {"lm_head": HEAD["lm_head"], "model.layers.0.self_attn.q_proj": q},
        {"target_modules": targets},
        extra,
    )
    adapter, checkpoint = open_adapter(folder), Checkpoint(base)
    checkpoint.check(adapter, "base")
    W = checkpoint.matrix("lm_head", adapter.slots["lm_head"])
    assert np.array_equal(W, load_file(base / SINGLE)["model.embed_tokens.weight"])
    table = scan(adapter, "intruder", base=checkpoint)
    assert len(table.scores) == len(adapter.names)


def test_an_output_layer_that_is_not_tied_is_missing(tmp_path):
    base = tied_llama(tmp_path / "base", tie=False)
    folder = write_adapter(
        tmp_path / "a", {"lm_head": HEAD["lm_head"]}, {"target_modules": ["lm_head"]}
    )
    with pytest.raises(ParameterError, match="has no tensor for lm_head"):
        Checkpoint(base).check(open_adapter(folder), "base")


def test_other_names_are_said_with_what_the_checkpoint_has(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    save_file({"decoder.blocks.0.self_attn.q_proj.weight": draw(8, 6)}, base / SINGLE)
    result = CliRunner().invoke(
        cli, ["scan", str(write_adapter(tmp_path / "a")), "--base", str(base)]
    )
    assert result.exit_code == 2
    words = " ".join(result.output.split())
    assert "has no tensor for model.layers.0.self_attn.q_proj" in words
    assert "decoder.blocks.0.self_attn.q_proj.weight has the same end" in words
    assert "self_attn.q_proj.weight;" in words
