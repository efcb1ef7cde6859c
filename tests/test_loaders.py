"""What PEFT and transformers make of a pruned adapter, on tiny models."""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from peft.utils.hotswap import hotswap_adapter
from safetensors.numpy import load_file, save_file

from adapters import draw, write_adapter
from models import (
    Base,
    gpt2,
    llama,
    load,
    logits,
    lora_layers,
    mixtral,
    nothing_said,
    save_adapter,
    take_out,
    zero_b,
)
from s3lora import Named, TopK, open_adapter, prune, scan
from s3lora.adapter import Adapter
from s3lora.errors import UnsupportedError
from tolerances import apart

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CONV1D = ["c_attn", "c_proj", "c_fc"]
L = "model.layers."
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Case:
    """An adapter, and what is taken out of it: names, or how many of the ranking."""

    base: Base
    gone: tuple[str, ...] | int
    lora: dict[str, Any]


def case(base: Base, gone: tuple[str, ...] | int, **lora: Any) -> Case:
    return Case(base, gone, lora)


PLAIN = {
    "llama": case(llama, 5, target_modules=EVERY),
    "llama, one stays": case(llama, 27, target_modules=EVERY),
    "all-linear": case(llama, 7, target_modules="all-linear", task_type="CAUSAL_LM"),
    "rslora": case(llama, 5, target_modules=EVERY, use_rslora=True),
    "gaussian": case(llama, 2, target_modules=["q_proj"], init_lora_weights="gaussian"),
    "patterns": case(
        llama,
        (
            f"{L}1.self_attn.q_proj",
            f"{L}1.mlp.gate_proj",
            f"{L}1.mlp.up_proj",
            *(f"{L}{layer}.mlp.down_proj" for layer in range(3)),
        ),
        target_modules=EVERY,
        rank_pattern={"layers.1.self_attn.q_proj": 2, f"^{L}2.mlp.up_proj": 8, "down_proj": 3},
        alpha_pattern={r".*\.1\.mlp\.(gate|up)_proj": 1, "v_proj": 3},
    ),
    "layers": case(
        llama, 5, target_modules=EVERY, layers_to_transform=[1, 2], layers_pattern="layers"
    ),
    "one layer": case(llama, 2, target_modules=EVERY, layers_to_transform=1),
    "expression": case(llama, 3, target_modules=r".*\.(q|v)_proj"),
    "excluded": case(
        llama,
        3,
        target_modules=["q_proj", "k_proj"],
        exclude_modules=[f"{L}0.self_attn.q_proj"],
    ),
    "excluded expression": case(
        llama, 3, target_modules=["q_proj", "k_proj"], exclude_modules=r".*\.0\..*"
    ),
    "saved head": case(llama, 3, target_modules=["q_proj", "k_proj"], modules_to_save=["lm_head"]),
    "gpt2": case(gpt2, 3, target_modules=CONV1D, fan_in_fan_out=True),
}
"""Adapters that PEFT can do everything with."""

SPECIAL = {
    "embedding": case(llama, ("model.embed_tokens",), target_modules=["q_proj", "embed_tokens"]),
    "embedding stays": case(
        llama,
        (f"{L}0.self_attn.q_proj", f"{L}3.self_attn.q_proj"),
        target_modules=["q_proj", "embed_tokens"],
    ),
    "head": case(llama, ("lm_head",), target_modules=["q_proj", "lm_head"]),
    "token rows": case(llama, 3, target_modules=["q_proj"], trainable_token_indices=[1, 2]),
    "repeated layers": case(
        llama, 3, target_modules=["q_proj", "v_proj"], layer_replication=[[0, 4], [2, 4]]
    ),
    "gpt2, all biases": case(gpt2, 3, target_modules=CONV1D, fan_in_fan_out=True, bias="all"),
    "experts": case(mixtral, 9, target_modules=["q_proj", "v_proj"], target_parameters=EXPERTS),
    "experts only": case(mixtral, 5, target_modules=[], target_parameters=EXPERTS),
    "experts, one stack": case(mixtral, 2, target_modules=[], target_parameters=EXPERTS[1:]),
    "experts all stay": case(
        mixtral,
        (f"{L}1.self_attn.q_proj",),
        target_modules=["q_proj"],
        target_parameters=EXPERTS,
    ),
    "all experts of a parameter": case(
        mixtral,
        tuple(f"{L}0.mlp.experts.gate_up_proj[{expert}]" for expert in range(4)),
        target_modules=["q_proj"],
        target_parameters=EXPERTS,
    ),
}
"""Adapters that bring more than factors of linear layers."""

CASES = PLAIN | SPECIAL


@dataclass(frozen=True)
class Pruned:
    """A case that was carried out."""

    base: Base
    source: Path
    out: Path
    gone: tuple[str, ...]
    adapter: Adapter
    full: torch.Tensor
    """Logits of the original."""
    expected: torch.Tensor
    """Logits of the original with B = 0 in what was taken out."""

    @property
    def kept(self) -> set[str]:
        """The LoRA layers that shall be there: stacks of experts stay as a whole."""
        slots = self.adapter.slots.items()
        return {slot.parameter or name for name, slot in slots if self.stays(name)}

    def stays(self, name: str) -> bool:
        return name not in self.gone or self.adapter.slots[name].kind == "expert"


def carried_out(folder: Path, case: Case) -> Pruned:
    source = save_adapter(folder / "source", case.base, **case.lora)
    if "embed_tokens" in case.lora["target_modules"]:
        change_embedding(source)
    adapter = open_adapter(source)
    policy = TopK(case.gone) if isinstance(case.gone, int) else Named(case.gone)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    table = scan(adapter)
    gone = policy(table)
    prune(adapter, gone, folder / "out", table=table, policy=policy)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    original = load(case.base, source)
    full = logits(original)
    zero_b(original, gone)
    return Pruned(case.base, source, folder / "out", gone, adapter, full, logits(original))


def change_embedding(source: Path) -> None:
    """Train the embedding that is saved beside its own LoRA layer, so that it matters."""
    tensors = load_file(source / WEIGHTS)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    tensors[key] = tensors[key] * np.float32(1.5)
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory):
    done: dict[str, Pruned] = {}

    def get(name: str) -> Pruned:
        if name not in done:
            done[name] = carried_out(tmp_path_factory.mktemp("case"), CASES[name])
        return done[name]

    return get


@pytest.fixture(params=CASES)
def pruned(request, cases) -> Pruned:
    return cases(request.param)


@pytest.fixture(params=[*PLAIN, "experts"])
def plain(request, cases) -> Pruned:
    return cases(request.param)


@pytest.fixture
def simple(cases) -> Pruned:
    return cases("llama")


def test_loads_without_a_word_with_exactly_the_kept_layers(pruned):
    with nothing_said():
        model = load(pruned.base, pruned.out)
    assert lora_layers(model).keys() == pruned.kept


def test_says_what_the_original_says_with_b_zeroed(pruned):
    assert not torch.equal(pruned.full, pruned.expected)
    assert torch.equal(logits(load(pruned.base, pruned.out)), pruned.expected)


@pytest.mark.parametrize("name", [name for name in CASES if name != "repeated layers"])
def test_loads_onto_the_meta_device_without_nan(cases, name):
    # PEFT loads no adapter with layer_replication that way, pruned or not.
    pruned = cases(name)
    with nothing_said():
        model = load(pruned.base, pruned.out, low_cpu_mem_usage=True)
    assert torch.equal(logits(model), pruned.expected)


@pytest.mark.parametrize("name", [name for name in CASES if name != "repeated layers"])
def test_merges_to_the_same_weights_as_the_original_with_b_zeroed(cases, name):
    # Repeated layers share their weights: PEFT merges every copy's update into them.
    pruned = cases(name)
    original = load(pruned.base, pruned.source)
    zero_b(original, pruned.gone)
    with nothing_said():
        merged = load(pruned.base, pruned.out).merge_and_unload()
    weights, expected = merged.state_dict(), original.merge_and_unload().state_dict()
    assert weights.keys() == expected.keys()
    assert [key for key in weights if not torch.equal(weights[key], expected[key])] == []
    assert apart(load(pruned.base, pruned.out), logits(merged), logits) <= 1


def test_saves_again_and_loads_the_same(pruned, tmp_path):
    # By itself PEFT saves an embedding only if target_modules has its short name.
    embedding = "model.embed_tokens" in pruned.adapter.names
    with nothing_said():
        load(pruned.base, pruned.out).save_pretrained(tmp_path, save_embedding_layers=embedding)
        again = load(pruned.base, tmp_path)
    assert lora_layers(again).keys() == pruned.kept
    assert torch.equal(logits(again), pruned.expected)
    assert open_adapter(tmp_path).names == open_adapter(pruned.out).names


def test_loads_beside_the_original_and_switches(plain):
    model = load(plain.base, plain.source)
    with nothing_said():
        model.load_adapter(str(plain.out), "pruned")
        model.set_adapter("pruned")
    assert lora_layers(model, "pruned").keys() == plain.kept
    assert torch.equal(logits(model), plain.expected)
    model.set_adapter("default")
    assert torch.equal(logits(model), plain.full)


@pytest.mark.numerics
@pytest.mark.parametrize("name", [n for n in PLAIN if n not in ("saved head", "rslora")])
def test_can_be_a_part_of_a_weighted_adapter(cases, name):
    # PEFT refuses modules_to_save there, and gives a rank-stabilised sum a wrong scale.
    pruned = cases(name)
    with nothing_said():
        model = load(pruned.base, pruned.out)
        model.load_adapter(str(pruned.out), "again")
        model.add_weighted_adapter(["default", "again"], [0.25, 0.75], "sum", "cat")
        model.set_adapter("sum")
    assert lora_layers(model, "sum").keys() == pruned.kept
    assert apart(model, pruned.expected, logits) <= 1


@pytest.mark.numerics
def test_can_be_weighted_against_the_original(simple):
    with nothing_said():
        model = load(simple.base, simple.out)
        model.load_adapter(str(simple.source), "original")
        model.add_weighted_adapter(["default", "original"], [1.0, 0.0], "sum", "cat")
        model.set_adapter("sum")
    assert apart(model, simple.expected, logits) <= 1


def test_transformers_loads_it_without_peft(plain):
    model = plain.base()
    with nothing_said():
        model.load_adapter(str(plain.out))
    assert torch.equal(logits(model), plain.expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "experts"])
def test_is_found_with_its_base_by_the_auto_class(cases, tmp_path, name):
    pruned = cases(name)
    pruned.base().save_pretrained(tmp_path / "base")
    out = tmp_path / "out"
    shutil.copytree(pruned.out, out)
    config = json.loads((out / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (out / "adapter_config.json").write_text(json.dumps(config))
    with nothing_said():
        model = AutoPeftModelForCausalLM.from_pretrained(str(out)).eval()
    assert lora_layers(model).keys() == pruned.kept
    assert torch.equal(logits(model), pruned.expected)


@pytest.mark.parametrize("name", ["llama", "rslora", "layers", "expression", "excluded", "gpt2"])
def test_is_swapped_in_for_the_original_while_it_runs(cases, name):
    pruned = cases(name)
    model = load(pruned.base, pruned.source)
    with nothing_said():
        hotswap_adapter(model, str(pruned.out), "default", torch_device="cpu")
    assert torch.equal(logits(model), pruned.expected)


@pytest.mark.parametrize("target", ["fused-safe", "zero-fill"])
@pytest.mark.parametrize("name", ["llama", "patterns", "layers", "expression", "gpt2", "experts"])
def test_the_other_targets_say_the_same(cases, tmp_path, name, target):
    pruned = cases(name)
    written = prune(pruned.adapter, pruned.gone, tmp_path / "out", target=target)
    with nothing_said():
        model = load(pruned.base, tmp_path / "out", low_cpu_mem_usage=True)
    layers = {slot.parameter or name for name, slot in written.slots.items()}
    assert lora_layers(model).keys() == layers
    assert torch.equal(logits(model), pruned.expected)


@pytest.mark.numerics
@pytest.mark.parametrize("target", ["minimal", "fused-safe", "zero-fill"])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ["llama", "patterns"])
def test_folded_scales_say_the_same(cases, tmp_path, name, rslora, target):
    gone = cases(name).gone
    source = save_adapter(tmp_path / "a", llama, **CASES[name].lora | {"use_rslora": rslora})
    original = load(llama, source)
    zero_b(original, gone)
    prune(open_adapter(source), gone, tmp_path / "out", target=target, fold_scale=True)
    with nothing_said():
        model = load(llama, tmp_path / "out", low_cpu_mem_usage=True)
    assert {layer.scaling["default"] for layer in lora_layers(model).values()} == (
        {1.0} if name == "patterns" else {4.0 if rslora else 2.0}
    )
    assert {layer.r["default"] for layer in lora_layers(model).values()} == (
        {8} if name == "patterns" else {4}
    )
    assert apart(original, model, logits) <= 1


@pytest.mark.numerics
def test_uniform_rslora_of_stacked_experts_is_folded(tmp_path):
    lora = {"target_modules": ["q_proj"], "target_parameters": EXPERTS, "use_rslora": True}
    source = save_adapter(tmp_path / "a", mixtral, **lora)
    gone = [f"{L}0.self_attn.q_proj", f"{L}1.mlp.experts.down_proj[2]"]
    original = load(mixtral, source)
    zero_b(original, gone)
    prune(open_adapter(source), gone, tmp_path / "out", fold_scale=True)
    with nothing_said():
        model = load(mixtral, tmp_path / "out")
    assert apart(original, model, logits) <= 1
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["use_rslora"] is False


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("base", "lora"),
    [
        (llama, {"target_modules": ["q_proj", "v_proj"], "use_dora": True}),
        (llama, {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": "pissa"}),
        (llama, {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": "olora"}),
        (gpt2, {"target_modules": CONV1D, "fan_in_fan_out": True, "lora_bias": True}),
    ],
    ids=["dora", "pissa", "olora", "lora_bias"],
)
def test_a_module_that_cannot_be_judged_is_taken_out_by_name_without_a_trace(tmp_path, base, lora):
    source = save_adapter(tmp_path / "a", base, **lora)
    adapter = open_adapter(source)
    gone = (adapter.names[0], adapter.names[-1])
    prune(adapter, Named(gone)(scan(adapter)), tmp_path / "out")
    original = load(base, source)
    full = logits(original)
    take_out(original, gone, base())
    with nothing_said():
        model = load(base, tmp_path / "out")
    assert lora_layers(model).keys() == set(adapter.names) - set(gone)
    for name in gone:
        weight = model.get_base_model().get_submodule(name).weight
        assert torch.equal(weight, base().get_submodule(name).weight)
    assert torch.equal(logits(model), logits(original))
    assert apart(model, full, logits) > 1


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_b_zeroed_would_leave_a_trace_there_and_is_refused(tmp_path, lora):
    source = save_adapter(tmp_path / "a", llama, target_modules=["q_proj"], **lora)
    name = f"{L}1.self_attn.q_proj"
    zeroed, without = load(llama, source), load(llama, source)
    zero_b(zeroed, [name])
    take_out(without, [name], llama())
    assert apart(zeroed, without, logits) > 1
    with pytest.raises(UnsupportedError, match="B = 0 would not take the effect of"):
        prune(open_adapter(source), [name], tmp_path / "out", target="zero-fill")
    assert not (tmp_path / "out").exists()


SEPARATE = "model.layers.{}.block_sparse_moe.experts.{}.{}"


def separate_experts(folder: Path) -> Path:
    """An adapter of the time when every expert of Mixtral was a module of its own."""
    shapes = {"w1": (24, 16), "w2": (16, 24), "w3": (24, 16)}
    modules = {
        SEPARATE.format(layer, expert, leaf): (draw(2, n, seed=seed), draw(m, 2, seed=seed + 1))
        for seed, (layer, expert, (leaf, (m, n))) in enumerate(
            itertools.product(range(2), range(4), shapes.items())
        )
    }
    for layer in range(2):
        modules[f"{L}{layer}.self_attn.q_proj"] = (draw(2, 16), draw(16, 2))
    return write_adapter(folder, modules, {"target_modules": ["q_proj", *shapes]})


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
@pytest.mark.parametrize(
    "gone",
    [
        (SEPARATE.format(1, 2, "w1"), f"{L}1.self_attn.q_proj"),
        tuple(SEPARATE.format(0, e, w) for e in range(4) for w in ("w1", "w2", "w3")),
        tuple(SEPARATE.format(n, e, "w2") for n in range(2) for e in range(4)),
        (f"{L}1.self_attn.q_proj",),
    ],
    ids=["one", "a layer", "a projection", "none"],
)
def test_separate_experts_are_still_fused_by_transformers(tmp_path, gone):
    source = separate_experts(tmp_path / "a")
    prune(open_adapter(source), gone, tmp_path / "out")
    tensors = load_file(source / WEIGHTS)
    for name in gone:
        tensors[f"base_model.model.{name}.lora_B.weight"][:] = 0
    save_file(tensors, source / WEIGHTS)
    with warnings.catch_warnings(record=True) as told:
        model = load(mixtral, tmp_path / "out", low_cpu_mem_usage=True)
    assert not [warning for warning in told if "missing" in str(warning.message)]
    assert torch.equal(logits(model), logits(load(mixtral, source)))


def test_all_separate_experts_are_dropped_together(tmp_path):
    adapter = open_adapter(separate_experts(tmp_path / "a"))
    prune(adapter, [name for name in adapter.names if "experts" in name], tmp_path / "out")
    with nothing_said():
        model = load(mixtral, tmp_path / "out")
    assert lora_layers(model).keys() == {f"{L}{layer}.self_attn.q_proj" for layer in range(2)}
