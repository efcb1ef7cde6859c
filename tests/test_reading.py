"""What adapters are read as: every variant, dtype and pattern, checked against PEFT itself."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers.pytorch_utils import Conv1D

from adapters import (
    ABSENT,
    ALPHA,
    CODES,
    CONFIG,
    NAMES,
    PREFIX,
    RANK,
    WEIGHTS,
    Array,
    Q,
    V,
    config_fields,
    draw,
    factors,
    file_bytes,
    header_of,
    lora,
    write_adapter,
    write_raw,
    write_tensors,
)
from s3lora import open_adapter, scan
from s3lora.adapter import Adapter
from s3lora.cli import cli
from s3lora.errors import AdapterError, ParameterError, UnsupportedError
from s3lora.io.peft_config import KNOWN_FIELDS, OTHER_TYPES, validated
from s3lora.io.peft_targets import resolve
from tolerances import norm_tolerance

torch.set_num_threads(1)

SCALE = ALPHA / RANK


def update(adapter: Adapter, name: str) -> Array:
    module = adapter.read(name)
    return module.scaling * module.B @ module.A


def scanned(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of a scan."""
    result = CliRunner().invoke(cli, ["scan", str(folder), "--format", "json", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}


def rules(folder: Path) -> dict[str, str]:
    """Severity by rule of what opening an adapter finds."""
    return {finding.rule: finding.severity for finding in open_adapter(folder).findings}


# --- the effective update, against merge_and_unload


class Experts(torch.nn.Module):
    """Three experts whose weights are stacked, as in transformers 5."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(3, 8, 5))
        self.down_proj = torch.nn.Parameter(torch.randn(3, 5, 4))


class Layer(torch.nn.Module):
    """One of each kind of module that LoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = torch.nn.Linear(6, 8)
        self.v_proj = torch.nn.Linear(6, 7)
        self.c_attn = Conv1D(9, 6)
        self.embed = torch.nn.Embedding(11, 6)
        self.conv1 = torch.nn.Conv1d(3, 5, 4)
        self.conv2 = torch.nn.Conv2d(3, 5, (2, 3))
        self.conv3 = torch.nn.Conv3d(2, 3, 2)
        self.experts = Experts()


def base_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Layer(), Layer()])})


def trained(model: Any) -> Any:
    """The model with every trainable number changed."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter))
    return model


def merged_updates(model: Any, base: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """By how much merging changes each weight, in float64."""
    after = model.merge_and_unload().state_dict()
    return {name: (after[name].double() - base[name].double()).numpy() for name in base}


def weight_of(name: str, kind: str, updates: Mapping[str, Array]) -> Array:
    """What PEFT adds to the weight that a module of ours adapts, as a matrix."""
    if kind == "expert":
        stack, _, expert = name.rstrip("]").partition("[")
        return updates[stack][int(expert)]
    weight = updates[f"{name}.weight"]
    if name.endswith("c_attn"):
        return weight.T
    return weight.reshape(len(weight), -1)


PEFT_CASES: dict[str, dict[str, Any]] = {
    "1 linear": {"target_modules": ["q_proj", "v_proj"]},
    "2 rslora": {"target_modules": ["q_proj"], "use_rslora": True},
    "2 patterns": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"0.q_proj": 4, "q_proj": 1, r"layers\.1\.v_.*": 3},
        "alpha_pattern": {r".*\.v_proj": 5, "layers.1.v_proj": 9},
    },
    "2 patterns and rslora": {
        "target_modules": r".*\.[qv]_proj",
        "use_rslora": True,
        "rank_pattern": {r"(0|1)\.v_proj": 5},
    },
    "3 fan_in_fan_out": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
    "4 embedding": {"target_modules": ["embed"]},
    "5 convolutions": {"target_modules": ["conv1", "conv2", "conv3"]},
    "11 experts": {
        "target_modules": [],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    },
    "11 gate_up alone": {"target_modules": [], "target_parameters": ["experts.gate_up_proj"]},
    "11 down alone, beside a linear": {
        "target_modules": ["q_proj"],
        "target_parameters": ["0.experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 3},
    },
    "15 gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "15 orthogonal": {"target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
}


@pytest.mark.numerics
@pytest.mark.parametrize("settings", PEFT_CASES.values(), ids=PEFT_CASES)
def test_update_is_what_peft_merges(settings, tmp_path):
    base = base_model()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = trained(get_peft_model(base, LoraConfig(r=2, lora_alpha=6, **settings)))
        model.save_pretrained(tmp_path, save_embedding_layers=False)
        updates = merged_updates(model, before)
    adapter = open_adapter(tmp_path)
    assert adapter.findings == ()
    assert len(adapter.names) > 0
    weights = {name: tensor.double().numpy() for name, tensor in before.items()}
    for name, slot in adapter.slots.items():
        expected = weight_of(name, slot.kind, updates)
        spare = norm_tolerance(weight_of(name, slot.kind, weights))
        assert slot.shape == expected.shape
        assert np.linalg.norm(update(adapter, name) - expected) <= norm_tolerance(expected) + spare


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_converted_adapter_holds_the_true_update_and_the_raw_one_is_refused(init, tmp_path):
    base = base_model()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    settings = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=init)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, settings)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(tmp_path / "start")
        model.peft_config["default"].init_lora_weights = init
        trained(model).save_pretrained(tmp_path / "raw")
        model.save_pretrained(
            tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start"
        )
        truth = merged_updates(model, before)
    assert scanned(tmp_path / "raw")[0] == 3
    adapter = open_adapter(tmp_path / "converted")
    assert adapter.config["r"] == 4
    for name in adapter.names:
        expected = truth[f"{name}.weight"]
        spare = norm_tolerance(before[f"{name}.weight"].double())
        assert np.linalg.norm(update(adapter, name) - expected) <= norm_tolerance(expected) + spare


def test_first_pattern_key_wins_and_rslora_takes_the_root():
    ranks = {"v_proj": 3, V: 7}
    config = validated(config_fields(rank_pattern=ranks, use_rslora=True, alpha_pattern={"v.*": 8}))
    resolved = resolve(config, [Q, V])
    assert resolved.rank == {Q: RANK, V: 3}
    assert resolved.scaling == pytest.approx({Q: ALPHA / RANK**0.5, V: 8 / 3**0.5})


# --- every variant gets a score, or the reason why not

A, B = factors()
BOTH = lora(Q, A, B)
LORA = f"{PREFIX}{Q}.lora_"

SCORED: dict[str, tuple[dict[str, Array], dict[str, Any], dict[str, str]]] = {
    "1 linear": (BOTH, {}, {}),
    "2 rslora": (BOTH, {"use_rslora": True}, {}),
    "3 fan_in_fan_out": (BOTH, {"fan_in_fan_out": True}, {}),
    "4 embedding": (
        {
            f"{PREFIX}embed_tokens.lora_embedding_A": A,
            f"{PREFIX}embed_tokens.lora_embedding_B": B,
        },
        {"target_modules": ["embed_tokens"]},
        {},
    ),
    "4 embedding and the whole base": (
        {
            f"{PREFIX}embed_tokens.lora_embedding_A": A,
            f"{PREFIX}embed_tokens.lora_embedding_B": B,
            f"{PREFIX}embed_tokens.base_layer.weight": draw(6, 8),
        },
        {"target_modules": ["embed_tokens"]},
        {"base-weight-payload": "low"},
    ),
    "5 convolution": (lora(Q, draw(2, 3, 4), draw(5, 2, 1)), {}, {}),
    "8 biases": (
        BOTH | {f"{PREFIX}{Q}.base_layer.bias": draw(8)},
        {"bias": "all"},
        {"base-weight-payload": "low"},
    ),
    "9 modules_to_save": (
        BOTH | {f"{PREFIX}score.weight": draw(3, 4)},
        {"modules_to_save": ["score"]},
        {"base-weight-payload": "low"},
    ),
    "10 trainable tokens": (
        BOTH | {f"{PREFIX}embed_tokens.token_adapter.trainable_tokens_delta": draw(3, 4)},
        {"trainable_token_indices": {"embed_tokens": [1, 2, 3]}},
        {"base-weight-payload": "low"},
    ),
    "11 stacked experts": (
        lora("m.experts", draw(6, 4), draw(5, 6)),
        {"target_modules": ABSENT, "target_parameters": ["experts.down_proj"]},
        {},
    ),
    "12 single experts": (
        lora("m.experts.3.w1", A, B) | lora("m.experts.10.w1", A, B),
        {"target_modules": ["w1"]},
        {},
    ),
    "14 converted": (BOTH, {"init_lora_weights": True}, {}),
    "15 gaussian": (BOTH, {"init_lora_weights": "gaussian"}, {}),
    "15 orthogonal": (BOTH, {"init_lora_weights": "orthogonal"}, {}),
    "15 eva": (BOTH, {"init_lora_weights": "eva"}, {}),
    "16 aLoRA": (BOTH, {"alora_invocation_tokens": [5, 6]}, {"conditional-update": "medium"}),
    "17 layer_replication": (
        BOTH,
        {"layer_replication": [[0, 1], [0, 1]]},
        {"replicated-layers": "medium"},
    ),
}


@pytest.mark.parametrize("name", SCORED)
def test_variant_is_scored(name, tmp_path):
    tensors, config, expected = SCORED[name]
    config = {"target_modules": ["q_proj"]} | config
    folder = write_tensors(tmp_path, tensors, **config)
    status, report = scanned(folder)
    assert report["skipped"] == []
    assert len(report["modules"]) == len(open_adapter(folder).names) > 0
    assert {f["rule"]: f["severity"] for f in report["findings"]} == expected
    assert status == (1 if "medium" in expected.values() else 0)


NOISE = {
    "lora_A.default.weight": (f"{LORA}A.default.weight", f"{LORA}B.default.weight", "low"),
    "no prefix": (f"{Q}.lora_A.weight", f"{Q}.lora_B.weight", "medium"),
    "doubled prefix": (f"{PREFIX}{LORA}A.weight", f"{PREFIX}{LORA}B.weight", "medium"),
    "_orig_mod in front": (f"_orig_mod.{LORA}A.weight", f"_orig_mod.{LORA}B.weight", "medium"),
    "_orig_mod inside": (
        f"{PREFIX}_orig_mod.{Q}.lora_A.weight",
        f"{PREFIX}_orig_mod.{Q}.lora_B.weight",
        "medium",
    ),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_in_keys_is_taken_out_and_told(name, tmp_path):
    key_a, key_b, severity = NOISE[name]
    folder = write_tensors(tmp_path, {key_a: A, key_b: B}, target_modules=["q_proj"])
    status, report = scanned(folder)
    assert [row["module"] for row in report["modules"]] == [Q]
    assert {f["where"]: f["severity"] for f in report["findings"]} == dict.fromkeys(
        (key_a, key_b), severity
    )
    assert status == (1 if severity == "medium" else 0)


def test_language_model_prefix_is_a_low_finding(tmp_path):
    write_adapter(tmp_path, [f"language_model.{Q}"], {"target_modules": ["q_proj"]})
    assert rules(tmp_path) == {"unusual-key": "low"}


REFUSED: dict[str, tuple[dict[str, Array], dict[str, Any], str]] = {
    "6 DoRA": (BOTH | {f"{LORA}magnitude_vector": draw(8)}, {"use_dora": True}, "DoRA"),
    "6 DoRA without its vector": (BOTH, {"use_dora": True}, "DoRA"),
    "7 lora_bias": (BOTH | {f"{LORA}B.bias": draw(8)}, {"lora_bias": True}, "bias"),
    "13 PiSSA": (BOTH, {"init_lora_weights": "pissa"}, "base"),
    "13 PiSSA by fast SVD": (BOTH, {"init_lora_weights": "pissa_niter_4"}, "base"),
    "13 OLoRA": (BOTH, {"init_lora_weights": "olora"}, "base"),
    "13 CorDA": (BOTH, {"init_lora_weights": "corda"}, "base"),
    "13 LoftQ": (BOTH, {"init_lora_weights": "loftq"}, "base"),
    "13 one of tomorrow": (BOTH, {"init_lora_weights": "brand-new"}, "not known"),
    "18 KaSA": (BOTH | {f"{LORA}diag": draw(2)}, {"kasa_config": {"beta": 1}}, "KaSA"),
    "18 MonteCLoRA": (BOTH, {"monteclora_config": {"samples": 4}}, "MonteCLoRA"),
    "18 VeLoRA": (BOTH, {"velora_config": {"groups": 4}}, "VeLoRA"),
    "18 QALoRA": (BOTH, {"use_qalora": True}, "QA-LoRA"),
    "18 BD-LoRA": (BOTH, {"use_bdlora": {"nblocks": 2}}, "BD-LoRA"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_variant_cannot_be_judged_and_every_module_says_why(name, tmp_path):
    tensors, config, reason = REFUSED[name]
    folder = write_tensors(tmp_path, tensors, **({"target_modules": ["q_proj"]} | config))
    status, report = scanned(folder)
    assert status == 3
    assert report["modules"] == []
    assert [row["module"] for row in report["skipped"]] == [Q]
    assert reason in report["skipped"][0]["reason"]
    with pytest.raises(UnsupportedError, match=reason):
        open_adapter(folder).read(Q)


@pytest.mark.parametrize("part", ["magnitude_vector", "B.bias", "E", "diag", "news"])
def test_part_that_the_config_does_not_announce_is_a_finding_and_no_score(part, tmp_path):
    extra = {f"{PREFIX}{V}.lora_{part}": draw(2)}
    status, report = scanned(write_adapter(tmp_path, [Q, V], extra=extra))
    assert [row["module"] for row in report["modules"]] == [Q]
    assert [row["module"] for row in report["skipped"]] == [V]
    assert [(f["rule"], f["severity"]) for f in report["findings"]] == [
        ("unknown-tensor", "medium")
    ]
    assert status == 1


@pytest.mark.parametrize("kind", [*OTHER_TYPES, "PROMPT_TUNING", "TOMORROW"])
def test_other_kind_of_adapter_is_refused(kind, tmp_path):
    folder = write_adapter(tmp_path, config={"peft_type": kind})
    result = CliRunner().invoke(cli, ["scan", str(folder)])
    assert result.exit_code == 3
    assert result.stdout == ""
    assert f"cannot judge an adapter of type '{kind}'" in result.stderr


@pytest.mark.parametrize(
    "pair",
    [(draw(0), draw(0)), (draw(12), draw(16)), (draw(2, 0), draw(8, 2)), (draw(2, 6), draw(0, 2))],
    ids=["empty", "flat", "no columns", "no rows"],
)
def test_partitioned_save_is_a_finding_and_no_score(pair, tmp_path):
    status, report = scanned(write_adapter(tmp_path, {Q: pair, V: factors()}))
    assert [(f["rule"], f["severity"], f["where"]) for f in report["findings"]] == [
        ("broken-tensor", "high", Q)
    ]
    assert "ZeRO-3" in report["skipped"][0]["reason"]
    assert [row["module"] for row in report["modules"]] == [V]
    assert status == 1


def test_save_without_any_tensor_is_an_error(tmp_path):
    folder = write_raw(tmp_path, file_bytes({"__metadata__": {"format": "pt"}}), config_fields())
    with pytest.raises(AdapterError, match="no LoRA tensors") as caught:
        open_adapter(folder)
    assert "ZeRO-3" in caught.value.hint


UNFIT = {
    "ranks differ": (draw(2, 6), draw(8, 3)),
    "rank is not the config's": (draw(3, 6), draw(8, 3)),
    "B has a dimension more": (draw(2, 6), draw(8, 2, 1)),
    "A has a dimension more": (draw(2, 6, 1), draw(8, 2)),
    "kernel of B is not 1×1": (draw(2, 3, 3, 3), draw(8, 2, 1, 3)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_factors_that_do_not_fit_are_a_finding_and_no_score(name, tmp_path):
    status, report = scanned(write_adapter(tmp_path, {Q: UNFIT[name], V: factors()}))
    assert [(f["rule"], f["where"]) for f in report["findings"]] == [("shape-mismatch", Q)]
    assert [row["module"] for row in report["skipped"]] == [Q]
    assert status == 1


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (
            {f"{PREFIX}e.lora_embedding_A": draw(2, 4, 3), f"{PREFIX}e.lora_embedding_B": B},
            {"target_modules": ["e"]},
        ),
        (
            lora("m.experts", draw(4, 4, 2), draw(5, 4, 1)),
            {"target_modules": ABSENT, "target_parameters": ["experts.w"]},
        ),
    ],
    ids=["embedding", "experts"],
)
def test_embeddings_and_experts_have_flat_factors(tensors, config, tmp_path):
    write_tensors(tmp_path, tensors, **config)
    assert rules(tmp_path) == {"shape-mismatch": "high"}
    assert scan(open_adapter(tmp_path)).scores == ()


def test_grouped_convolution_cannot_be_judged(tmp_path):
    pair = (draw(2, 3, 3), draw(8, 1, 1))
    status, report = scanned(write_adapter(tmp_path, {Q: pair}, {"target_modules": ["q_proj"]}))
    assert status == 3
    assert "grouped convolution" in report["skipped"][0]["reason"]


def test_stack_of_experts_is_one_module_each_in_natural_order(tmp_path):
    A, B = draw(24, 4), draw(5, 24, seed=1)
    config = {"target_modules": ABSENT, "target_parameters": ["experts.down_proj"]}
    adapter = open_adapter(write_adapter(tmp_path, {"m.experts": (A, B)}, config))
    assert adapter.names == tuple(f"m.experts.down_proj[{e}]" for e in range(12))
    dense = np.einsum("ore,eri->eoi", B.reshape(5, 2, 12), A.reshape(12, 2, 4))
    for expert, name in enumerate(adapter.names):
        np.testing.assert_allclose(update(adapter, name), SCALE * dense[expert], rtol=1e-6)


def test_stack_that_the_config_does_not_name_cannot_be_judged(tmp_path):
    stacks = lora("m.experts", A, B) | lora("m.experts.base_layer", A, B)
    config = {"target_modules": ABSENT, "target_parameters": ["experts.one", "experts.two"]}
    table = scan(open_adapter(write_tensors(tmp_path, stacks, **config)))
    assert table.scores == ()
    assert all("does not tell whose" in row.reason for row in table.skipped)


def test_modules_are_in_natural_order(tmp_path):
    names = [f"model.layers.{layer}.q_proj" for layer in (10, 2, 0)]
    assert open_adapter(write_adapter(tmp_path, names)).names == tuple(reversed(names))


# --- dtypes


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_dtype_is_read_to_the_last_bit(dtype, tmp_path):
    A, B = factors()
    module = open_adapter(write_adapter(tmp_path, {Q: (A, B)}, dtype=dtype)).read(Q)
    assert module.A.dtype == np.float64
    np.testing.assert_array_equal(module.A, A.astype(CODES[dtype]).astype(np.float64))
    np.testing.assert_array_equal(module.B, B.astype(CODES[dtype]).astype(np.float64))
    assert np.unique(module.A).size > 3


def test_factors_of_whole_numbers_cannot_be_judged(tmp_path):
    status, report = scanned(write_adapter(tmp_path, dtype="I8"))
    assert status == 3
    assert {row["reason"] for row in report["skipped"]} == {
        "its factors are stored as I8, which is no floating type"
    }


# --- targeting, against PEFT's own functions

CANDIDATES = [
    *NAMES,
    "q_proj",
    "xq_proj",
    "model.layers.10.self_attn.q_proj",
    "model.layers.1.mlp.experts.0.q_proj",
    "model.layers.0.mlp.down_proj",
    "blocks.1.layers.0.q_proj",
    "model.layers.1.adapter.layers.0.q_proj",
    "layers.1.q_proj",
    "model.1.q_proj",
    "lm_head",
    "lm_head.q_proj",
    "model.q_proj.1",
]

TARGETINGS: dict[str, dict[str, Any]] = {
    "ending": {"target_modules": ["q_proj"]},
    "exact": {"target_modules": [Q]},
    "long ending": {"target_modules": ["self_attn.q_proj", "lm_head"]},
    "expression": {"target_modules": r".*\.(q|v)_proj"},
    "expression of the start only": {"target_modules": r"model\.layers"},
    "expression with a bar": {"target_modules": "q_proj|.*v_proj"},
    "expression that closes a bracket": {"target_modules": "(.*q_proj)|(lm_head)"},
    "layers": {"target_modules": ["q_proj"], "layers_to_transform": [0, 10]},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": 1},
    "layers of a list": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "layers",
    },
    "layers of two lists": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [0],
        "layers_pattern": ["layers", "blocks"],
    },
    "layers of a dotted list": {
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "layers_pattern": "model.layers",
    },
    "exact in spite of layers": {"target_modules": [Q, "v_proj"], "layers_to_transform": [1]},
    "no layers": {"target_modules": ["q_proj"], "layers_to_transform": []},
    "excluded ending": {"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]},
    "excluded expression": {"target_modules": ["q_proj"], "exclude_modules": r".*\.0\..*"},
    "excluded by a word": {"target_modules": ["q_proj"], "exclude_modules": "all-linear"},
    "modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "blocks"]},
    "dot of modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["lm.head"]},
}


@pytest.mark.parametrize("name", TARGETINGS)
def test_targeting_is_pefts(name):
    fields = TARGETINGS[name]
    peft = LoraConfig(**fields)
    expected = {n for n in CANDIDATES if check_target_module_exists(peft, n)}
    assert resolve(validated(config_fields(**fields)), CANDIDATES).targeted == expected
    assert 0 < len(expected) < len(CANDIDATES) or name == "expression of the start only"


PIECES = st.sampled_from(["layers", "blocks", "0", "1", "12", "q", "v", "a-b", "l_y"])
DOTTED = st.lists(PIECES, min_size=1, max_size=5).map(".".join)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(DOTTED, min_size=1, max_size=4),
    st.lists(st.sampled_from([0, 1, 12]), max_size=2),
    st.lists(st.sampled_from(["layers", "blocks", "l.y", "layers.0"]), max_size=2),
    st.lists(DOTTED, max_size=2),
    st.lists(DOTTED, max_size=2),
    st.lists(DOTTED, min_size=1, max_size=8, unique=True),
)
def test_targeting_by_names_is_pefts_whatever_they_are(
    targets, layers, lists, excluded, saved, names
):
    fields = {"target_modules": targets, "exclude_modules": excluded, "modules_to_save": saved}
    if layers:
        fields |= {"layers_to_transform": layers, "layers_pattern": lists}
    peft = LoraConfig(**fields)
    expected = {name for name in names if check_target_module_exists(peft, name)}
    assert resolve(validated(config_fields(**fields)), names).targeted == expected


KEYS = [
    "q_proj",
    "proj",
    "self_attn.q_proj",
    "layers.0.self_attn.q_proj",
    "model.layers",
    "self.attn.q.proj",
    "l.yers.0.self_attn.v_proj",
    "",
    "^model.layers.1.self_attn.q_proj",
    r"layers\.1\..*",
    "(q|v)_proj",
    r".*\.0\..*_proj",
    "q_proj$",
    "q_proj)|(lm_head",
    ")|(",
    "[0-9]+.q_proj",
    "(?:lm_head)",
]


@pytest.mark.parametrize("key", KEYS)
def test_pattern_key_matches_as_in_peft(key):
    config = validated(config_fields(rank_pattern={key: 99}))
    expected = {name for name in CANDIDATES if get_pattern_key([key], name) == key}
    resolved = resolve(config, CANDIDATES)
    assert {name for name, rank in resolved.rank.items() if rank == 99} == expected
    dead = any(finding.rule == "dead-pattern" for finding in resolved.findings)
    assert dead == (not expected)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(DOTTED, min_size=1, max_size=6, unique=True),
    st.lists(DOTTED, min_size=1, max_size=6, unique=True),
)
def test_first_plain_pattern_key_wins_as_in_peft(keys, names):
    ranks = {key: 100 + at for at, key in enumerate(keys)}
    resolved = resolve(validated(config_fields(rank_pattern=ranks)), names)
    assert resolved.rank == {n: ranks.get(get_pattern_key(ranks, n), RANK) for n in names}


@pytest.mark.parametrize(
    "field", [{"target_modules": "all-linear"}, {"target_modules": "ALL-LINEAR"}]
)
def test_all_linear_targets_everything_but_the_output_layer(field):
    linear = {name for name in CANDIDATES if not name.endswith("lm_head")}
    assert resolve(validated(config_fields(**field)), CANDIDATES).targeted == linear


def test_config_without_targets_is_a_finding(tmp_path):
    write_adapter(tmp_path, config={"target_modules": ABSENT})
    assert rules(tmp_path) == {"unknown-setting": "medium"}


def test_known_fields_are_those_of_pefts_config():
    assert set(LoraConfig.__dataclass_fields__) <= KNOWN_FIELDS


# --- where adapters come from


def test_hub_cache_of_links_is_read(tmp_path):
    real = write_adapter(tmp_path / "real")
    hub = tmp_path / "models--example--adapter"
    blobs, snapshot = hub / "blobs", hub / "snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for at, name in enumerate((WEIGHTS, CONFIG)):
        (real / name).rename(blobs / f"blob{at}")
        (snapshot / name).symlink_to(f"../../blobs/blob{at}")
    (tmp_path / "latest").symlink_to(snapshot)
    for ref in (snapshot, tmp_path / "latest", snapshot / WEIGHTS):
        adapter = open_adapter(ref)
        assert adapter.names == NAMES
        assert adapter.findings == ()


def test_bare_file_is_read_with_the_config_beside_it(tmp_path):
    folder = write_adapter(tmp_path)
    (folder / WEIGHTS).rename(folder / "mine.safetensors")
    assert open_adapter(folder / "mine.safetensors").names == NAMES
    with pytest.raises(AdapterError, match="holds no adapter_model"):
        open_adapter(folder)


def test_weights_that_were_not_asked_for_are_noted(tmp_path):
    folder = write_adapter(tmp_path)
    (folder / "mine.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    (found,) = open_adapter(folder / "mine.safetensors").findings
    assert (found.rule, found.severity, found.where) == ("unscanned-sibling", "medium", WEIGHTS)


def test_name_of_another_module_is_an_error(tmp_path):
    with pytest.raises(ParameterError, match="no module 'q_proj'"):
        open_adapter(write_adapter(tmp_path)).read("q_proj")


# --- laziness


@pytest.fixture
def bytes_read(monkeypatch):
    """How many bytes were read of weights, by offset."""
    taken: dict[int, int] = {}

    def counted(fd: int, length: int, offset: int) -> bytes:
        data = pread(fd, length, offset)
        taken[offset] = len(data)
        return data

    def counted_into(fd: int, buffers: Any, offset: int) -> int:
        taken[offset] = preadv(fd, buffers, offset)
        return taken[offset]

    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", counted)
    monkeypatch.setattr(os, "preadv", counted_into)
    return taken


def test_listing_reads_the_header_and_reading_one_module_its_two_tensors(tmp_path, bytes_read):
    adapter = open_adapter(write_adapter(tmp_path))
    size = (tmp_path / WEIGHTS).stat().st_size
    data = len(NAMES) * 4 * (2 * 6 + 8 * 2)
    assert adapter.names == NAMES
    assert adapter.parameters == data / 4
    assert sum(bytes_read.values()) == size - data
    adapter.read(V)
    assert sum(bytes_read.values()) == size - data + data / len(NAMES)


def test_file_of_many_gigabytes_is_listed_at_once(tmp_path, bytes_read):
    columns = 2**28
    tensors = {
        f"{LORA}A.weight": ("F32", (2, columns), 8 * columns),
        f"{LORA}B.weight": ("F32", (columns, 2), 8 * columns),
    }
    folder = write_raw(tmp_path, file_bytes(header_of(tensors)), config_fields())
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate((folder / WEIGHTS).stat().st_size + 16 * columns)
    started = time.monotonic()
    adapter = open_adapter(folder)
    assert adapter.slots[Q].shape == (columns, columns)
    assert adapter.tensors.nbytes > 2**32
    assert sum(bytes_read.values()) < 1000
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("rank", [1024, 1025])
def test_a_rank_beyond_the_limit_is_not_scored(tmp_path, rank):
    A, B = draw(rank, 4), draw(4, rank)
    adapter = open_adapter(write_adapter(tmp_path, {Q: (A, B)}, config_fields(r=rank)))
    reason = adapter.slots[Q].unscored
    assert reason == ("" if rank == 1024 else "its rank is 1025, more than 1024")
