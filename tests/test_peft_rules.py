"""Rules of PEFT at the edges of what its configs say, each by a small file of its own."""

from __future__ import annotations

from typing import Any

import pytest

from adapters import PREFIX, RANK, Array, Q, V, draw, factors, lora, write_tensors
from s3lora import open_adapter, prune

Found = dict[str, tuple[str, str]]

BOTH = lora(Q, *factors()) | lora(V, *factors(seed=1))
EXPERTS = "model.layers.0.mlp.experts"


def found(folder: Any, tensors: dict[str, Array], **config: Any) -> Found:
    """(rule, severity) by where it is."""
    adapter = open_adapter(write_tensors(folder, tensors, **config))
    return {finding.where: (finding.rule, finding.severity) for finding in adapter.findings}


def stack(path: str, experts: int, m: int = 8, n: int = 6) -> dict[str, Array]:
    """The factors of one stacked parameter, each expert's of rank 2."""
    return lora(path, draw(experts * RANK, n), draw(m, experts * RANK))


SAVED = {"modules_to_save": ["merger"]}
MERGER = {f"{PREFIX}model.merger.mlp.0.weight": draw(6, 6)}

ABSENT_TARGETS: dict[str, tuple[dict[str, Array], dict[str, Any], bool]] = {
    "nothing explains it": ({}, {}, True),
    "another layer has it": ({}, {"layers_to_transform": [0]}, False),
    "layers are repeated": ({}, {"layer_replication": [[0, 1], [0, 1]]}, False),
    "below a module that is saved whole": (MERGER, SAVED | {"target_modules": ["mlp.0"]}, False),
    "not below it": (MERGER, SAVED | {"target_modules": ["mlp.1"]}, True),
    "a parameter's name": ({}, {"target_modules": ["weight"]}, False),
}


@pytest.mark.parametrize("case", ABSENT_TARGETS)
def test_a_target_that_the_file_rightly_lacks_is_not_missed(tmp_path, case):
    extra, config, missed = ABSENT_TARGETS[case]
    targets = [*config.get("target_modules", ["o_proj"]), "q_proj", "v_proj"]
    rows = found(tmp_path, BOTH | extra, **config | {"target_modules": targets})
    assert (rows.get(targets[0]) == ("missing-module", "medium")) is missed


def test_a_parameter_targeted_by_its_bare_name_is_no_module_of_that_name(tmp_path):
    shared = "model.layers.0.mlp.shared_experts.down_proj"
    tensors = stack(EXPERTS, 4) | lora(shared, *factors())
    config = {"target_modules": [], "target_parameters": ["down_proj"]}
    assert found(tmp_path, tensors, **config) == {shared: ("untargeted-module", "high")}


@pytest.mark.parametrize("experts", [4, 3])
def test_parameters_of_one_module_have_the_same_number_of_experts(tmp_path, experts):
    tensors = stack(EXPERTS, 4) | stack(f"{EXPERTS}.base_layer", experts)
    config = {"target_modules": [], "target_parameters": ["gate_up_proj", "down_proj"]}
    uneven: Found = {f"{EXPERTS}.gate_up_proj": ("shape-mismatch", "high")}
    assert found(tmp_path, tensors, **config) == (uneven if experts == 3 else {})


@pytest.mark.parametrize("init", [True, "olora", "pissa"])
def test_a_start_cut_out_of_the_base_has_no_more_than_its_smaller_side(tmp_path, init):
    tensors = lora(Q, *factors(3, 6, 3))  # of a weight with three rows, at rank 4
    config = {"r": 4, "init_lora_weights": init, "target_modules": ["q_proj"]}
    expected: Found = {Q: ("shape-mismatch", "high")} if init is True else {}
    assert found(tmp_path, tensors, **config) == expected


@pytest.mark.parametrize(
    "name",
    [f"{EXPERTS}.gate_up_proj", "model.layers.0.mixer.A_log", "model.gate.e_score_correction_bias"],
)
def test_a_parameter_that_is_no_weight_or_bias_is_replaced_all_the_same(tmp_path, name):
    rows = found(tmp_path, BOTH | {PREFIX + name: draw(2, 3, 4)})
    assert rows == {PREFIX + name: ("base-weight-payload", "high")}


def test_a_saved_head_with_a_bias_has_a_weight(tmp_path):
    config = {"task_type": "TOKEN_CLS", "modules_to_save": ["classifier"]}
    bias, weight = {f"{PREFIX}classifier.bias": draw(3)}, {f"{PREFIX}classifier.weight": draw(3, 6)}
    assert found(tmp_path / "a", BOTH | bias, **config)["classifier"][0] == "missing-module"
    assert "classifier" not in found(tmp_path / "b", BOTH | bias | weight, **config)


@pytest.mark.parametrize(
    ("targets", "saved", "ties"),
    [
        (["embed_tokens"], None, True),
        (["model.embed_tokens"], None, True),
        (["shared"], None, False),
        (["embed_tokens"], ["lm_head"], False),
        (r"(.*\.)?(embed_tokens|q_proj)", None, True),
        (r".*\.(embed_tokens|q_proj)", None, False),
    ],
)
def test_only_targets_of_two_names_are_tied(tmp_path, targets, saved, ties):
    embedding = {
        f"{PREFIX}model.embed_tokens.lora_embedding_A": draw(RANK, 9),
        f"{PREFIX}model.embed_tokens.lora_embedding_B": draw(6, RANK),
    }
    config = {"target_modules": targets, "modules_to_save": saved, "ensure_weight_tying": True}
    tensors = lora("lm_head", *factors(9, 6)) | embedding
    findings = open_adapter(write_tensors(tmp_path, tensors, **config)).findings
    untargeted = {f.where for f in findings if f.rule == "untargeted-module"}
    assert ("lm_head" not in untargeted) is ties


@pytest.mark.parametrize("at", [0, 1, 3])
def test_the_wrapper_of_a_parallel_model_is_found_anywhere_in_a_key(tmp_path, at):
    pieces = Q.split(".")
    name = ".".join([*pieces[:at], "module", *pieces[at:]])
    rows = found(tmp_path, lora(name, *factors()), target_modules=["q_proj"])
    assert {rule for rule, _ in rows.values()} == {"unusual-key"}


@pytest.mark.parametrize("label", ["weight", "other", "other.weight"])
def test_a_factor_of_an_embedding_has_no_leaf(tmp_path, label):
    embedding = {
        f"{PREFIX}wte.lora_embedding_A.{label}": draw(RANK, 9),
        f"{PREFIX}wte.lora_embedding_B.{label}": draw(6, RANK),
    }
    rows = found(tmp_path, embedding, target_modules=["wte"])
    assert rows == dict.fromkeys(embedding, ("unusual-key", "medium"))


@pytest.mark.parametrize("init", [False, "gaussian", "orthogonal", "pissa_niter_4", "OLoRA"])
def test_a_start_that_needs_a_weight_is_none_for_stacked_parameters(tmp_path, init):
    config = {"target_modules": [], "target_parameters": ["down_proj"], "init_lora_weights": init}
    row = found(tmp_path, stack(EXPERTS, 4), **config).get("init_lora_weights")
    rule = None if init == "gaussian" else ("refused-setting" if init else "random-module")
    assert (row and row[0]) == rule


def test_an_orthogonal_start_at_an_odd_rank_is_refused(tmp_path):
    config = {"r": 3, "init_lora_weights": "orthogonal", "target_modules": ["q_proj"]}
    rows = found(tmp_path, lora(Q, *factors(r=3)), **config)
    assert rows == {"init_lora_weights": ("refused-setting", "medium")}


def test_only_linear_layers_are_stored_transposed(tmp_path):
    embedding = {
        f"{PREFIX}wte.lora_embedding_A": draw(RANK, 9),
        f"{PREFIX}wte.lora_embedding_B": draw(6, RANK),
    }
    config = {"target_modules": ["q_proj", "wte"], "fan_in_fan_out": True}
    slots = open_adapter(write_tensors(tmp_path, lora(Q, *factors()) | embedding, **config)).slots
    assert {name: slot.transposed for name, slot in slots.items()} == {Q: True, "wte": False}


@pytest.mark.parametrize("edit", ["drop", "zero"])
@pytest.mark.parametrize("name", ["lm_head", Q])
def test_an_edited_layer_is_not_tied_to_the_embedding_again(tmp_path, name, edit):
    embedding = {
        f"{PREFIX}model.embed_tokens.lora_embedding_A": draw(RANK, 9),
        f"{PREFIX}model.embed_tokens.lora_embedding_B": draw(6, RANK),
    }
    tensors = BOTH | lora("lm_head", *factors(9, 6)) | embedding
    config = {"target_modules": ["embed_tokens", "q_proj", "v_proj"], "ensure_weight_tying": True}
    adapter = open_adapter(write_tensors(tmp_path / "a", tensors, **config))
    pruned = prune(adapter, [name], tmp_path / "out", edit=edit)
    assert pruned.config["ensure_weight_tying"] is (name != "lm_head")
    assert not [finding for finding in pruned.findings if finding.rule == "untargeted-module"]
