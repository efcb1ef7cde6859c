"""The true update of DoRA, PiSSA and OLoRA, held against what PEFT makes of the base weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.numpy import load_file, save_file

from adapters import CONFIG, WEIGHTS, Array, draw
from models import Base, gpt2, llama, load, save_adapter
from s3lora.adapter import Adapter, LoraModule, ModuleName
from s3lora.cli import cli
from s3lora.errors import UnsupportedError
from s3lora.io import open_adapter
from s3lora.io.checkpoint import Checkpoint
from s3lora.methods import method_class
from s3lora.recover import true_update
from s3lora.scan import scan
from tolerances import matrix_tolerance

pytestmark = pytest.mark.numerics

LLAMA = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
GPT2 = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}  # one c_proj is square

CASES: dict[str, tuple[Base, dict[str, Any]]] = {
    "dora": (llama, LLAMA | {"use_dora": True}),
    "dora, rank-stabilised": (llama, LLAMA | {"use_dora": True, "use_rslora": True, "r": 3}),
    "dora, ranks apart": (
        llama,
        LLAMA | {"use_dora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"up_proj": 1}},
    ),
    "dora, Conv1D": (gpt2, GPT2 | {"use_dora": True}),
    "dora, Conv1D, rank-stabilised": (gpt2, GPT2 | {"use_dora": True, "use_rslora": True}),
    "pissa": (llama, LLAMA | {"init_lora_weights": "pissa"}),
    "pissa, rank-stabilised": (llama, LLAMA | {"init_lora_weights": "pissa", "use_rslora": True}),
    "pissa, Conv1D": (gpt2, GPT2 | {"init_lora_weights": "pissa"}),
    "pissa, ranks apart": (
        llama,
        LLAMA | {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 2}},
    ),
    "olora": (llama, LLAMA | {"init_lora_weights": "olora"}),
    "olora, scale 1": (llama, LLAMA | {"init_lora_weights": "olora", "lora_alpha": 4}),
    "olora, rank-stabilised": (llama, LLAMA | {"init_lora_weights": "OLoRA", "use_rslora": True}),
    "olora, rank 1": (llama, LLAMA | {"init_lora_weights": "olora", "r": 1}),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> tuple[Base, Path, Path]:
    """A base, an adapter on it, and the base's checkpoint."""
    base, config = CASES[request.param]
    folder = tmp_path_factory.mktemp("recover")
    base().save_pretrained(folder / "base")
    return base, save_adapter(folder / "adapter", base, **config), folder / "base"


def matrices(model: torch.nn.Module, names: tuple[ModuleName, ...]) -> dict[str, Array]:
    """The weights of modules as (out, in), in float64."""
    found = {}
    for name in names:
        module = model.get_submodule(name)
        W = module.weight.detach().double().numpy()
        found[name] = W.T if type(module).__name__ == "Conv1D" else W
    return found


def effective(base: Base, folder: Path, names: tuple[ModuleName, ...]) -> dict[str, Array]:
    """How much loading an adapter changes each weight matrix, by PEFT.

    In float64 where PEFT can: not for PiSSA and OLoRA, whose starts it computes in float32.
    """
    starts = json.loads((folder / CONFIG).read_text())["init_lora_weights"] is not True
    before = matrices(base(), names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PiSSA, that merging it is not exact
        model = load(base if starts else lambda: base().double(), folder)
        after = matrices(model.merge_and_unload(), names)
    return {name: after[name] - before[name] for name in names}


def dense_update(module: LoraModule) -> Array:
    return module.scaling * module.B @ module.A


def start_tolerance(adapter: Adapter, name: ModuleName, W: Array) -> float:
    """What a start computed in float32, and weights that take it in, may be off by."""
    return matrix_tolerance(lambda moved: dense_update(true_update(adapter, name, moved)), W)


def test_the_true_update_is_what_loading_the_adapter_changes(case):
    base, folder, weights = case
    adapter, checkpoint = open_adapter(folder), Checkpoint(weights)
    expected = effective(base, folder, adapter.names)
    for name, slot in adapter.slots.items():
        W = checkpoint.matrix(name, slot)
        found = dense_update(true_update(adapter, name, W))
        if slot.variant == "dora":
            assert np.abs(found - expected[name]).max() <= 1e-12
        else:
            assert np.abs(found - expected[name]).max() <= start_tolerance(adapter, name, W)
        stored = adapter.stored(name)
        bare = stored.scaling * stored.B @ stored.A
        assert np.abs(bare - expected[name]).max() > 1e-2  # the factors alone are no answer


def test_a_true_update_of_a_start_stays_in_factors_of_twice_the_rank(case):
    _, folder, weights = case
    adapter, checkpoint = open_adapter(folder), Checkpoint(weights)
    for name, slot in adapter.slots.items():
        module = true_update(adapter, name, checkpoint.matrix(name, slot))
        rank = min(slot.shape) if slot.variant == "dora" else 2 * slot.rank
        assert module.B.shape == (slot.shape[0], rank)
        assert module.A.shape == (rank, slot.shape[1])


def test_magnitudes_alone_change_the_weights(tmp_path):
    """DoRA with B = 0 is no zero update once the magnitudes are trained."""
    llama().save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", llama, target_modules=["q_proj"], use_dora=True)
    tensors = load_file(folder / WEIGHTS)
    for key in tensors:
        if ".lora_B." in key:
            tensors[key][:] = 0
    save_file(tensors, folder / WEIGHTS)
    adapter = open_adapter(folder)
    expected = effective(llama, folder, adapter.names)
    table = scan(adapter, "magnitude", base=Checkpoint(tmp_path / "base"))
    assert len(table.scores) == len(adapter.names)
    for score in table.scores:
        size = np.linalg.norm(expected[score.module])
        assert score.value == pytest.approx(size, rel=1e-12)
        assert size > 0.1


def run(*words: str | Path) -> tuple[int, dict[str, Any]]:
    """The exit status and the report of a scan."""
    result = CliRunner().invoke(cli, ["scan", *map(str, words), "--format", "json"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, json.loads(result.stdout)


def test_the_command_scores_it_with_a_base_and_says_why_not_without(case):
    _, folder, weights = case
    status, report = run(folder, "--base", weights)
    assert status == 0
    assert len(report["modules"]) == len(open_adapter(folder).names)
    assert report["skipped"] == []
    status, report = run(folder)
    assert status == 3
    assert report["modules"] == []
    reasons = {row["reason"] for row in report["skipped"]}
    assert len(reasons) == 1
    assert "base weights" in reasons.pop()


@pytest.mark.parametrize("method", ["s3lora", "magnitude", "spectrum", "fingerprint", "intruder"])
def test_every_method_scores_the_true_update(case, method):
    base, folder, weights = case
    adapter = open_adapter(folder)
    expected = effective(base, folder, adapter.names)
    table = scan(adapter, method, base=Checkpoint(weights))
    assert not table.skipped
    assert method_class(method).name == table.method
    for score in table.scores:
        sigma = np.linalg.svd(expected[score.module], compute_uv=False)
        slot, spare = adapter.slots[score.module], 0.0
        if slot.variant != "dora":  # by Weyl's inequality: the norm of the difference at most
            W = Checkpoint(weights).matrix(score.module, slot)
            spare = start_tolerance(adapter, score.module, W) * W.size**0.5
        if "frobenius" in score.parts:
            size = np.linalg.norm(sigma)
            assert score.parts["frobenius"] == pytest.approx(size, rel=1e-12, abs=spare)
        if "sigma_1" in score.parts:
            assert score.parts["sigma_1"] == pytest.approx(sigma[0], rel=1e-12, abs=spare)


def test_with_both_weights_the_update_is_that_of_the_aligned_model(tmp_path):
    """base → aligned → tuned: the adapter was trained on the aligned weights."""
    model = llama()
    model.save_pretrained(tmp_path / "aligned")
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", llama, **LLAMA | {"use_dora": True})
    adapter = open_adapter(folder)
    expected = effective(llama, folder, adapter.names)
    base, aligned = Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "aligned")
    for known in ({"base": base, "aligned": aligned}, {"aligned": aligned}):
        table = scan(adapter, "magnitude", **known)
        for score in table.scores:
            size = np.linalg.norm(expected[score.module])
            assert score.value == pytest.approx(size, rel=1e-12)
    apart = scan(adapter, "magnitude", base=base)
    assert apart.scores[0].value != pytest.approx(
        np.linalg.norm(expected[apart.scores[0].module]), rel=0.01
    )


OTHERS = {
    "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "corda": {"init_lora_weights": "corda"},
    "loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
    "lora_ga": {"init_lora_weights": "lora_ga"},
    "dora on pissa": {"init_lora_weights": "pissa", "use_dora": True},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_variants_stay_without_a_score_even_with_a_base(tmp_path, kind):
    llama().save_pretrained(tmp_path / "base")
    lora = {"use_dora": "use_dora" in OTHERS[kind]}
    folder = save_adapter(tmp_path / "adapter", llama, target_modules=["q_proj"], **lora)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | OTHERS[kind]))
    status, report = run(folder, "--base", tmp_path / "base")
    assert status == 3
    assert report["modules"] == []
    assert len(report["skipped"]) == 4


def test_olora_on_conv1d_stays_without_a_score(tmp_path):
    """PEFT takes the start from the matrix as it is stored, transposed."""
    gpt2().save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", gpt2, **GPT2)
    config = json.loads((folder / "adapter_config.json").read_text())
    changed = config | {"init_lora_weights": "olora"}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    table = scan(open_adapter(folder), "magnitude", base=Checkpoint(tmp_path / "base"))
    assert table.scores == ()


@pytest.mark.parametrize("length", [0, 1, 15, 17])
def test_magnitudes_that_do_not_fit_leave_the_module_without_a_score(tmp_path, length):
    """One number for all rows would fit by broadcasting, and be wrong."""
    llama().save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", llama, target_modules=["q_proj"], use_dora=True)
    tensors = load_file(folder / WEIGHTS)
    odd = next(key for key in tensors if "magnitude" in key)
    tensors[odd] = draw(length)
    save_file(tensors, folder / WEIGHTS)
    adapter, base = open_adapter(folder), Checkpoint(tmp_path / "base")
    table = scan(adapter, "magnitude", base=base)
    assert [row.module in odd for row in table.skipped] == [True]
    assert f"magnitudes of shape [{length}] for 16 rows" in table.skipped[0].reason
    name = table.skipped[0].module
    with pytest.raises(UnsupportedError, match="magnitudes"):
        true_update(adapter, name, base.matrix(name, adapter.slots[name]))


@pytest.mark.parametrize("part", ["magnitude", "lora_B"])
def test_numbers_that_are_no_floats_leave_the_module_without_a_score(tmp_path, part):
    llama().save_pretrained(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", llama, target_modules=["q_proj"], use_dora=True)
    tensors = load_file(folder / WEIGHTS)
    odd = next(key for key in tensors if part in key)
    tensors[odd] = tensors[odd].astype(np.int32)
    save_file(tensors, folder / WEIGHTS)
    table = scan(open_adapter(folder), "magnitude", base=Checkpoint(tmp_path / "base"))
    assert [row.module in odd for row in table.skipped] == [True]
    assert "stored as I32" in table.skipped[0].reason
    assert len(table.scores) == 3


def test_a_row_of_zeros_in_the_tuned_weights_is_no_finite_update(tmp_path):
    """DoRA divides by the norm of each row; PEFT makes NaN of it."""
    model = llama()
    folder = save_adapter(tmp_path / "adapter", llama, target_modules=["q_proj"], use_dora=True)
    tensors = load_file(folder / WEIGHTS)
    for key in tensors:
        if ".lora_B." in key:
            tensors[key][3] = 0
    save_file(tensors, folder / WEIGHTS)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data[3] = 0
    model.save_pretrained(tmp_path / "base")
    table = scan(open_adapter(folder), "s3lora", base=Checkpoint(tmp_path / "base"))
    assert table.scores == ()
    assert {finding.rule for finding in table.findings} == {"non-finite"}


def test_a_plain_adapter_scores_the_same_with_and_without_a_base(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    adapter = open_adapter(save_adapter(tmp_path / "adapter", llama, **LLAMA))
    assert scan(adapter) == scan(adapter, base=Checkpoint(tmp_path / "base"))


def test_the_effective_update_is_peft_s(tmp_path):
    """The reference of this file: for plain LoRA it is s·B·A."""
    folder = save_adapter(tmp_path / "adapter", llama, **LLAMA)
    adapter = open_adapter(folder)
    assert isinstance(load(llama, folder), PeftModel)
    for name, change in effective(llama, folder, adapter.names).items():
        module = adapter.read(name)
        assert np.abs(module.scaling * module.B @ module.A - change).max() < 1e-6
