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
        {
            "megatron_core": ("imported-code", "high"),
            "megatron_config": ("refused-setting", "medium"),
        },
    ),
    "megatron of another name, unused": (
        {"megatron_core": "megatron.core.evil"},
        {"megatron_core": ("imported-code", "high")},
    ),
    "megatron that is a list": (
        {"megatron_core": ["x"]},
        {"megatron_core": ("imported-code", "high")},
    ),
    "megatron's own": (
        {"megatron_config": {"x": 1}, "megatron_core": "megatron.core"},
        {"megatron_config": ("refused-setting", "medium")},
    ),
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


REFUSED: dict[str, list[Any]] = {
    "rank_pattern": [None, [], "", False],
    "alpha_pattern": [None, []],
    "bias": [None, "foo", "ALL", "", True, False, 0, []],
    "lora_dropout": [None, 1.5, "0.1", [], ""],
    "task_type": ["", "FOO", "causal_lm", 1, [], False],
    "init_lora_weights": ["EVA", "Orthogonal", "PISSA", "pissa_x", "LoftQ", "loftq", "foo", "true"],
    "eva_config": [False, 0, "x", [], {"rho": 0.5}, {"rho": "2"}, {"tau": 2}],
    "corda_config": [True, "x"],
    "lora_ga_config": [[], 1],
    "kasa_config": [False, "x"],
    "arrow_config": [0, ""],
    "use_bdlora": [False, True],
    "velora_config": [[], 1],
    "monteclora_config": [True, "x"],
    "megatron_config": [{"x": 1}, True, "x"],
    "trainable_token_indices": [["1", 2], [True], [1.0], [-1], True, False, 5, "x", {"wte": 3}],
}
UNJUDGED = ["PISSA", "pissa_x", "LoftQ", "loftq", "foo", "true"]
"""Starts with which no update can be judged anyway, so that there is a status for them."""
LOADED: dict[str, list[Any]] = {
    "rank_pattern": [{}, ABSENT],
    "alpha_pattern": [{}],
    "bias": ["none", "all", "lora_only", "boft_only", ABSENT],
    "lora_dropout": [0, 1, 0.5, -0.1, True, False, ABSENT],
    "task_type": [None, "CAUSAL_LM", "FEATURE_EXTRACTION", ABSENT],
    "init_lora_weights": ["Gaussian", "GAUSSIAN", "MiCA", "mica", "eva", "orthogonal", ABSENT],
    "eva_config": [None, {}, {"rho": 1, "tau": 0.5}, {"x": 1}],
    "corda_config": [None, {}],
    "lora_ga_config": [None, {}],
    "kasa_config": [None],
    "loftq_config": [None, {}, False, "x"],
    "monteclora_config": [None, False, 0, "", []],
    "megatron_config": [None, {}, False],
    "trainable_token_indices": [None, {}],
}


def each(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in table.items() for value in values]


@pytest.mark.parametrize(("field", "value"), each(REFUSED), ids=str)
def test_a_value_that_peft_refuses_is_told(field, value, tmp_path):
    unjudged = field == "init_lora_weights" and value in UNJUDGED
    severity = "low" if unjudged else "medium"
    assert told(tmp_path, **{field: value})[field] == ("refused-setting", severity)


@pytest.mark.parametrize(("field", "value"), each(LOADED), ids=str)
def test_a_value_that_peft_loads_is_none(field, value, tmp_path):
    assert told(tmp_path, **{field: value}) == {}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"use_dora": True, "velora_config": {}}, "use_dora"),
        ({"init_lora_weights": "mica", "kasa_config": {}}, "kasa_config"),
        (
            {
                "trainable_token_indices": {"lm_head": [1]},
                "modules_to_save": ["lm_head"],
            },
            "trainable_token_indices",
        ),
        (
            {"trainable_token_indices": [1], "modules_to_save": ["embed_tokens"]},
            "trainable_token_indices",
        ),
    ],
)
def test_values_that_peft_refuses_together_are_told(config, field, tmp_path):
    adapter = open_adapter(write_tensors(tmp_path, BOTH, **config))
    places = [row.where for row in adapter.findings if row.rule == "refused-setting"]
    assert places == [field]


@pytest.mark.parametrize(
    ("field", "value"), [("task_type", "FOO"), ("bias", None), ("lora_dropout", 1.5)]
)
def test_what_peft_wants_instead_is_said(field, value, tmp_path):
    adapter = open_adapter(write_tensors(tmp_path, BOTH, **{field: value}))
    (finding,) = adapter.findings
    text = {"task_type": "'FOO'", "bias": "null", "lora_dropout": "1.5"}[field]
    right = {"task_type": "CAUSAL_LM", "bias": "lora_only", "lora_dropout": "from 0 to 1"}[field]
    assert finding.message.startswith(f"it is {text}")
    assert right in finding.message


@pytest.mark.parametrize(
    "field", ["kasa_config", "arrow_config", "use_bdlora", "velora_config", "monteclora_config"]
)
@pytest.mark.parametrize("value", [{}, {"x": 1}])
def test_a_variant_is_set_by_an_empty_object_too(field, value, tmp_path):
    table = scan(open_adapter(write_tensors(tmp_path, BOTH, **{field: value})))
    assert not table.scores
    assert len(table.skipped) == 2


def test_a_flag_that_is_a_text_is_set_and_the_reason_says_so(tmp_path):
    table = scan(open_adapter(write_tensors(tmp_path, BOTH, use_dora="false")))
    assert not table.scores
    for row in table.skipped:
        assert "use_dora is the text 'false', which PEFT takes as set" in row.reason


def test_the_sampler_of_monteclora_is_no_unusual_key(tmp_path):
    sampler = f"{PREFIX}{Q}.lora_monteclora_sampler"
    shapes = {
        "expert_weights": (8,),
        "expert_weights_prior": (8,),
        "gaussian_var_prior": (2, 2),
        "std_prior": (2,),
    }
    tensors = BOTH | {f"{sampler}.{name}": draw(*shape) for name, shape in shapes.items()}
    config = {"monteclora_config": {"num_samples": 8}}
    assert told(tmp_path / "honest", tensors, **config) == {}
    assert not scan(open_adapter(tmp_path / "honest")).scores
    odd = {f"{sampler}.other": draw(8)}
    assert set(told(tmp_path / "odd", tensors | odd, **config)) == {f"{sampler}.other"}


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


def test_factors_of_another_kind_of_layer_are_told(tmp_path):
    def rules(name: str, tensors: Any, target: str) -> set[str]:
        return {
            rule for rule, _ in told(tmp_path / name, tensors, target_modules=[target]).values()
        }

    head = {key.replace("model.embed_tokens", "lm_head"): factor for key, factor in EMBED.items()}
    projection = {key.replace("model.embed_tokens", Q): factor for key, factor in EMBED.items()}
    linear = lora("model.embed_tokens", *factors())
    assert rules("linear", linear, "embed_tokens") == {"unusual-key"}
    assert rules("head", head, "lm_head") == {"unusual-key"}
    assert rules("projection", projection, "q_proj") == {"unusual-key"}
    assert rules("honest", EMBED, "embed_tokens") == set()
    assert rules("honest head", lora("lm_head", *factors()), "lm_head") == set()


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
