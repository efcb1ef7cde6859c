"""Settings that change how an update is used, each as what it is; honest ones without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters import ABSENT, PREFIX, Q, V, config_fields, draw, factors, lora, write_tensors
from s3lora import open_adapter, prune, scan
from s3lora.errors import S3LoraError, UnsupportedError

BOTH = lora(Q, *factors()) | lora(V, *factors(seed=1))


def told(folder: Any, tensors: Any = BOTH, **config: Any) -> dict[str, tuple[str, str]]:
    """(rule, severity) by where it is said of."""
    adapter = open_adapter(write_tensors(folder, tensors, **config))
    return {finding.where: (finding.rule, finding.severity) for finding in adapter.findings}


def mapping(library: object) -> dict[str, Any]:
    return {"auto_mapping": {"base_model_class": "X", "parent_library": library}}


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, str]]]] = {
    "megatron of another name": (
        {"megatron_config": {"x": 1}, "megatron_core": "evil"},
        {"megatron_core": ("imported-code", "high")},
    ),
    "megatron of another name, unused": (
        {"megatron_core": "megatron.core.evil"},
        {"megatron_core": ("imported-code", "high")},
    ),
    "megatron that is a list": (
        {"megatron_core": ["x"]},
        {"megatron_core": ("imported-code", "high")},
    ),
    "megatron's own": ({"megatron_config": {"x": 1}, "megatron_core": "megatron.core"}, {}),
    "library of nobody": (mapping("evil"), {"auto_mapping": ("imported-code", "high")}),
    "library that begins alike": (
        mapping("transformers_evil.x"),
        {"auto_mapping": ("imported-code", "high")},
    ),
    "library that is a number": (mapping(7), {"auto_mapping": ("imported-code", "high")}),
    "code of the base model": (
        mapping("transformers_modules.org.model.modeling_x"),
        {"auto_mapping": ("imported-code", "medium")},
    ),
    "transformers": (mapping("transformers.models.llama.modeling_llama"), {}),
    "timm": (mapping("timm.models.vision_transformer"), {}),
    "the training program": (mapping("__main__"), {}),
    "no mapping": ({"auto_mapping": None, "megatron_core": None}, {}),
    "layers repeated": (
        {"layer_replication": [[0, 2], [1, 2]]},
        {"layer_replication": ("replicated-layers", "medium")},
    ),
    "aLoRA": (
        {"alora_invocation_tokens": [5]},
        {"alora_invocation_tokens": ("conditional-update", "medium")},
    ),
    "defaults": (
        {"r": ABSENT, "lora_alpha": ABSENT, "rank_pattern": {".*": 2}},
        {"r": ("default-setting", "low"), "lora_alpha": ("default-setting", "low")},
    ),
    "start off, by endings": (
        {"init_lora_weights": False},
        {"init_lora_weights": ("random-module", "medium")},
    ),
    "start off, by null": (
        {"init_lora_weights": None},
        {"init_lora_weights": ("random-module", "medium")},
    ),
    "start off, by an expression": (
        {"init_lora_weights": "", "target_modules": ".*_proj"},
        {"init_lora_weights": ("random-module", "medium")},
    ),
    "start off, by one name too many": (
        {"init_lora_weights": False, "target_modules": [Q, V, f"{V}2"]},
        {f"{V}2": ("missing-module", "medium"), "init_lora_weights": ("random-module", "medium")},
    ),
    "start off, by full names": ({"init_lora_weights": False, "target_modules": [Q, V]}, {}),
    "expression and layers": (
        {"target_modules": ".*_proj", "layers_to_transform": [0]},
        {"layers_to_transform": ("refused-setting", "medium")},
    ),
    "list of layers without layers": (
        {"layers_pattern": "layers"},
        {"layers_pattern": ("refused-setting", "medium")},
    ),
    "orthogonal, and an odd rank of no module": (
        {"init_lora_weights": "orthogonal", "rank_pattern": {"no": 3}},
        {"no": ("dead-pattern", "low")},
    ),
    "tying where no embedding is": ({"ensure_weight_tying": True}, {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_told_as_what_it_is(name, tmp_path):
    config, expected = SETTINGS[name]
    assert told(tmp_path, **config) == expected


def test_what_is_not_done_to_parameters_is_refused_together_with_them(tmp_path):
    stack = lora("m.experts", draw(4, 6), draw(8, 4))
    config = {"target_modules": [], "target_parameters": ["experts.w"]}
    assert told(tmp_path / "plain", stack, **config) == {}
    found = told(tmp_path / "odd", stack, lora_dropout=0.1, **config)
    assert found == {"lora_dropout": ("refused-setting", "medium")}


EMBED = {
    f"{PREFIX}model.embed_tokens.lora_embedding_A": draw(2, 9),
    f"{PREFIX}model.embed_tokens.lora_embedding_B": draw(6, 2),
}


@pytest.mark.parametrize("tensors", [EMBED, lora("lm_head", *factors())], ids=["in", "out"])
def test_an_update_that_is_applied_twice_is_told(tensors, tmp_path):
    config = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    found = told(tmp_path, tensors, **config)
    assert found.pop("ensure_weight_tying") == ("tied-update", "medium")
    assert "untargeted-module" not in {rule for rule, _ in found.values()}


def test_arrow_cannot_be_judged(tmp_path):
    config = {"arrow_config": {"top_k": 2}}
    table = scan(open_adapter(write_tensors(tmp_path, BOTH, **config)))
    assert not table.scores
    assert all("Arrow" in row.reason for row in table.skipped)


def test_an_alpha_of_zero_is_the_reason_why_nothing_is_done(tmp_path):
    def message(**config: Any) -> str:
        adapter = open_adapter(write_tensors(tmp_path, zero if not config else BOTH, **config))
        (finding,) = scan(adapter).findings
        assert (finding.rule, finding.severity) == ("zero-update", "medium")
        return finding.message

    zero = {key: 0 * tensor for key, tensor in BOTH.items()}
    assert "lora_alpha is 0" in message(lora_alpha=0)
    assert "lora_alpha" not in message()


def test_text_of_a_setting_is_shown_in_part(tmp_path):
    long = "x" * 60_000
    config = config_fields(
        rank_pattern={long: 4}, target_modules=f"{long}|.*_proj", **{long: 1}, **mapping(long)
    )
    adapter = open_adapter(write_tensors(tmp_path, BOTH, **config))
    assert len(adapter.findings) == 3
    assert all(len(finding.where + finding.message) < 400 for finding in adapter.findings)


EXTREME = [1.7e308, -1.7e308, 5e-324, 1e-308, 10**308, 2**60, 0]


@pytest.mark.parametrize("alpha", EXTREME)
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("field", ["lora_alpha", "alpha_pattern"])
def test_scales_at_the_ends_of_float64_are_folded_or_refused(alpha, rslora, field, tmp_path):
    config = {field: {"q_proj": alpha} if field == "alpha_pattern" else alpha}
    source = open_adapter(write_tensors(tmp_path / "in", BOTH, use_rslora=rslora, **config))
    for gone in (Q, V):
        try:
            written = prune(source, [gone], tmp_path / gone, fold_scale=True)
        except S3LoraError:
            continue
        (stays,) = written.names
        expected = source.slots[stays].scaling
        module, before = written.read(stays), source.read(stays)
        with np.errstate(over="ignore"):
            after, truth = module.scaling * module.B[:, :2], expected * before.B
        assert after == pytest.approx(truth, rel=1e-6, abs=1e-45)


def test_a_scale_that_leaves_float64_cannot_be_folded(tmp_path):
    config = {"lora_alpha": 1.7e308, "use_rslora": True}
    source = open_adapter(write_tensors(tmp_path / "in", BOTH, **config))
    with pytest.raises(UnsupportedError, match="does not fit float64"):
        prune(source, [Q], tmp_path / "out", fold_scale=True)


def test_defaults_are_written_when_they_are_folded(tmp_path):
    A, B = factors(r=8)
    tensors = lora(Q, A, B) | lora(V, A, B)
    fields = {"r": ABSENT, "lora_alpha": ABSENT, "use_rslora": True}
    source = open_adapter(write_tensors(tmp_path / "in", tensors, **fields))
    written = prune(source, [V], tmp_path / "out", fold_scale=True)
    assert written.slots[Q].scaling == pytest.approx(8**0.5)
    assert written.config["lora_alpha"] == pytest.approx(8 * 8**0.5)
