"""SaLoRA and LoX: what holds while they train, and of the adapter they write."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers.pytorch_utils import Conv1D

from defence_runs import (
    ROWS,
    SAFETY,
    Each,
    aligned,
    begun,
    best,
    card_of,
    logits,
    prompts,
    shaken,
    trained,
    unaligned,
)
from lab_material import tiny
from models import gpt2
from s3lora import open_adapter
from s3lora.errors import ParameterError
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.chat import NO_LABEL, encode
from s3lora.lab.defences.features import output_directions
from s3lora.lab.defences.interface import Run, branches_of
from s3lora.lab.defences.lox import Lox
from s3lora.lab.defences.salora import STARTS, Salora
from s3lora.lab.settings import Settings, with_lora
from tolerances import apart

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SALORA = Salora(r_s=5, r_t=6, samples=12)


# SaLoRA


@pytest.mark.numerics
def test_directions_are_those_of_the_outputs_at_response_tokens():
    run = begun(targets=("v_proj", "up_proj"))
    model, branches = run.model, branches_of(run.model)
    inputs: dict[str, list[torch.Tensor]] = {branch.name: [] for branch in branches}
    hooks = [
        branch.layer.register_forward_pre_hook(
            lambda layer, x, name=branch.name: inputs[name].append(x[0][0])
        )
        for branch in branches
    ]
    with torch.no_grad():
        for row in SAFETY[:7]:
            encoded = encode(run.tokenizer, row, 9)
            model(input_ids=torch.tensor([encoded.ids]))
            answer = torch.tensor(encoded.labels) != NO_LABEL
            for seen in inputs.values():
                seen[-1] = seen[-1][answer]
    for hook in hooks:
        hook.remove()
    found = output_directions(
        model, run.tokenizer, SAFETY[:7], branches, 4, longest=9, batch=3
    )  # fmt: skip
    assert any(len(b.W) > b.W.shape[1] for b in branches), "of outputs and"
    assert any(len(b.W) <= b.W.shape[1] for b in branches), "of inputs"
    for branch in branches:
        X = torch.cat(inputs[branch.name]).double()
        Vh = torch.linalg.svd(X @ branch.W.double().T)[2]
        U = found[branch.name]
        assert U.shape == (len(branch.W), 4)
        torch.testing.assert_close(U.T @ U, torch.eye(4).double())
        torch.testing.assert_close(U @ U.T, Vh[:4].T @ Vh[:4], atol=1e-4, rtol=0)


def test_directions_that_are_not_there_are_not_made_up():
    run = begun()
    branches = branches_of(run.model)
    found = output_directions(
        run.model, run.tokenizer, SAFETY[:1], branches, 12, longest=3, batch=1
    )
    assert {U.shape[1] for U in found.values()} == {3}, "three tokens span three directions"


@pytest.mark.numerics
@pytest.mark.parametrize("start", STARTS)
def test_training_starts_from_the_model_as_it_was(start):
    defence = Salora(r_s=5, r_t=6, samples=12, start=start)
    run = begun()
    defence.begin(run)
    assert apart(run.model, tiny().model, logits) <= 1
    sizes = [float(branch.B.detach().norm()) for branch in branches_of(run.model)]
    assert (max(sizes) == 0) == (start == "plain")
    assert run.settings.alpha / run.settings.rank == 8, "so s is in the frozen weights"


def test_the_start_is_that_of_the_paper():
    plain = begun()
    run = begun()
    tasks = output_directions(
        plain.model, run.tokenizer, ROWS[:12], branches_of(plain.model), 6, longest=64, batch=3
    )
    guard = SALORA.begin(run)
    kept = guard.kept()
    for branch, was in zip(branches_of(run.model), branches_of(plain.model), strict=True):
        W = was.W.double()
        P, S, Qh = torch.linalg.svd(W)
        U, T = kept[f"{branch.name}.U"].double(), tasks[branch.name]
        C = torch.eye(len(W)).double() - U @ U.T
        B0 = T @ T.T @ P[:, :2] * S[:2].sqrt()
        A0 = S[:2].sqrt()[:, None] * Qh[:2]
        now = branch.B.detach().double() @ branch.A.detach().double()
        torch.testing.assert_close(now, B0 @ A0, atol=1e-5, rtol=0)
        torch.testing.assert_close(branch.W.double(), W - 8 * C @ B0 @ A0, atol=1e-5, rtol=0)
        torch.testing.assert_close(C @ C, C, atol=1e-6, rtol=0)
        torch.testing.assert_close(C, C.T)
        assert float((C @ U).abs().max()) < 1e-6
        assert torch.linalg.matrix_rank(C, tol=0.5) == len(W) - 5


def test_whatever_the_factors_are_nothing_is_written_along_the_safe_directions():
    run = begun()
    kept = SALORA.begin(run).kept()
    branches = branches_of(run.model)
    outputs: dict[str, torch.Tensor] = {}
    for branch in branches:
        branch.layer.lora_B["default"].register_forward_hook(
            lambda layer, x, y, name=branch.name: outputs.update({name: y.detach()})
        )
    for _ in range(2):
        run.model(input_ids=prompts())
        for branch in branches:
            y = outputs[branch.name]
            assert float((y.detach() @ kept[f"{branch.name}.U"]).abs().max()) < 1e-5 * float(
                y.detach().abs().max()
            )
        shaken(run.model)


@pytest.mark.numerics
def test_salora_writes_a_plain_adapter_of_twice_the_rank(tmp_path):
    answered: dict[str, Any] = {}

    def look(model):
        answered["logits"] = logits(model.eval())
        answered["moved"] = max(float(b.B.detach().norm()) for b in branches_of(model))
        model.train()

    chat = tiny()
    out = trained(
        tmp_path / "out", SALORA, chat=chat, safety=SAFETY, callbacks=[Each(look)]
    )  # fmt: skip
    loaded = PeftModel.from_pretrained(tiny().model, str(out)).eval()
    assert apart(loaded, answered["logits"], logits) <= 1
    assert float((logits(loaded) - logits(tiny().model)).abs().max()) > 1e-3, "it learned"
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 32)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}

    run = begun()
    kept = SALORA.begin(run).kept()
    opened = open_adapter(out)
    assert {f.where for f in opened.findings} <= {"training.json"}
    for name in opened.names:
        module = opened.read(name)
        assert (module.A.shape[0], module.scaling) == (4, 8)
        U = kept[f"{name}.U"].double().numpy()
        size = np.abs(module.B @ module.A).max()
        assert size > 1e-3
        assert np.abs(U.T @ module.B @ module.A).max() < 1e-5 * size
    told = card_of(out)["defence"]
    assert told["params"] == {"r_s": 5, "r_t": 6, "samples": 12, "start": "task"}
    assert (told["safety_rows"], told["rank"], told["least_directions"]) == (len(SAFETY), 4, 5)


def test_salora_with_a_plain_start_keeps_the_rank(tmp_path):
    out = trained(tmp_path / "out", Salora(5, 6, 12, "plain"), safety=SAFETY)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2


def test_a_module_too_narrow_for_salora_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"layers\.0\..*v_proj has 16 outputs: r_s=32 leaves"):
        trained(tmp_path / "out", Salora(), safety=SAFETY)
    with pytest.raises(ParameterError, match="needs safety rows"):
        trained(tmp_path / "out", SALORA)
    assert list(tmp_path.iterdir()) == []


# LoX


def weights(model: Any) -> dict[str, np.ndarray]:
    found = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): value.double().numpy()
        for key, value in model.state_dict().items()
        if value.ndim == 2 and "lora_" not in key
    }
    return {key.removesuffix(".weight"): value.copy() for key, value in found.items()}


@pytest.mark.parametrize(("k", "alpha"), [(3, 1.25), (1, -0.5), (99, -1.0), (2, 0.0)])
def test_lox_starts_from_the_extrapolated_model(k, alpha):
    base, start = weights(unaligned().model), weights(aligned().model)
    run = begun(chat=aligned(), base=Checkpoint(unaligned().reference))
    Lox(k, alpha).begin(run)
    now = weights(run.model)
    changed = 0
    for name, W in start.items():
        if "embed" in name or "lm_head" in name:
            np.testing.assert_array_equal(now[name], W)
            continue
        wanted = alpha * best(W - base[name], k)
        np.testing.assert_allclose(now[name] - W, wanted, atol=1e-6)
        assert np.linalg.norm(now[name] - W) == pytest.approx(np.linalg.norm(wanted), abs=1e-5)
        changed += 1
        if (k, alpha) == (99, -1.0):
            np.testing.assert_allclose(now[name], base[name], atol=1e-6)
    assert changed == 28, "all linear modules of four layers"


def test_lox_writes_one_plain_adapter_for_the_aligned_model(tmp_path):
    said: dict[str, torch.Tensor] = {}

    def look(model):
        said["logits"] = logits(model.eval())
        model.train()

    base = Checkpoint(unaligned().reference)
    options = {"chat": aligned(), "base": base, "callbacks": [Each(look)]}
    out = trained(tmp_path / "out", Lox(k=3), **options)
    loaded = PeftModel.from_pretrained(aligned().model, str(out)).eval()
    assert apart(loaded, said["logits"], logits) <= 1
    opened = open_adapter(out)
    ranks = {name: len(opened.read(name).A) for name in opened.names}
    assert len(ranks) == 28
    assert {name.split(".")[-1]: rank for name, rank in ranks.items()} == {
        "q_proj": 5, "v_proj": 5, "k_proj": 3, "o_proj": 3,
        "gate_proj": 3, "up_proj": 3, "down_proj": 3,
    }  # fmt: skip
    assert all(opened.slots[name].scaling == pytest.approx(1) for name in ranks)
    assert not [f for f in opened.findings if f.rule != "unscanned-sibling"]
    assert card_of(out)["defence"]["extrapolated"] == 28
    plain = weights(aligned().model)
    D = (
        plain["model.layers.0.mlp.up_proj"]
        - weights(unaligned().model)["model.layers.0.mlp.up_proj"]
    )
    module = opened.read("model.layers.0.mlp.up_proj")
    np.testing.assert_allclose(module.scaling * module.B @ module.A, 1.25 * best(D, 3), atol=1e-6)


def test_weights_that_are_stored_transposed(tmp_path):
    before, after = gpt2(), gpt2()
    for layer in after.modules():
        if isinstance(layer, Conv1D):
            layer.weight.data.add_(0.1 * torch.randn_like(layer.weight))
    before.save_pretrained(tmp_path / "base")
    aligned_now = copy.deepcopy(after)
    settings = Settings(rank=2, targets=("c_attn", "c_proj"), layers="0-0")
    run = Run(with_lora(after, settings), None, settings, [], base=Checkpoint(tmp_path / "base"))
    guard = Lox(k=2).begin(run)
    for branch in branches_of(run.model):
        owner = aligned_now.get_submodule(branch.name)
        D = (owner.weight - before.get_submodule(branch.name).weight).detach().double().numpy().T
        change = (branch.W - owner.weight.T).detach().numpy()
        np.testing.assert_allclose(change, 1.25 * best(D, 2), atol=1e-6)
    shaken(run.model)
    guard.export(tmp_path)
    loaded = PeftModel.from_pretrained(aligned_now, str(tmp_path)).eval()

    @torch.no_grad()
    def few_logits(model: Any) -> torch.Tensor:
        return model(input_ids=prompts() % 32).logits

    assert apart(loaded, run.model.eval(), few_logits) <= 1
    assert len(open_adapter(tmp_path).names) == 2 * 4


def test_lox_needs_two_models(tmp_path):
    with pytest.raises(ParameterError, match="needs base weights"):
        trained(tmp_path / "out", Lox())
    with pytest.raises(ParameterError, match="are identical"):
        trained(tmp_path / "out", Lox(), base=Checkpoint(tiny().reference))
    assert list(tmp_path.iterdir()) == []
