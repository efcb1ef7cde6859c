"""The softer edits, held to what they guarantee on the adapter as PEFT loads it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.numpy import load_file, save_file

from adapters import ALPHA, NAMES, Q, draw, lora, write_adapter
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
)
from s3lora import open_adapter, prune, scan
from s3lora.adapter import Adapter, LoraModule, ModuleName, Weights
from s3lora.cli import cli
from s3lora.edits import Flatten, Merge, Project, Scale, Truncate, make_editor
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.io.checkpoint import Checkpoint
from s3lora.linalg import thin_svd
from s3lora.plan import plan
from tolerances import apart, norm_tolerance

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONV1D = ["c_attn", "c_proj", "c_fc"]
L = "model.layers."
WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "s3lora.json"

Deltas = dict[str, np.ndarray]


class Kernels(torch.nn.Module):
    """Two convolutions in a row, one with a kernel that is not square."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, (3, 1))
        self.second = torch.nn.Conv2d(8, 6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def kernels() -> Kernels:
    torch.manual_seed(0)
    return Kernels().eval()


SOURCES: dict[str, tuple[Base, dict[str, Any]]] = {
    "plain": (llama, {"target_modules": EVERY}),
    "rslora": (llama, {"target_modules": EVERY, "use_rslora": True, "r": 6}),
    "patterns": (
        llama,
        {
            "target_modules": EVERY,
            "rank_pattern": {f"{L}1.self_attn.q_proj": 2, "up_proj": 6, "down_proj": 3},
            "alpha_pattern": {r".*\.1\.mlp\.(gate|up)_proj": 1, "v_proj": 3},
        },
    ),
    "embedding": (llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "gpt2": (gpt2, {"target_modules": CONV1D, "fan_in_fan_out": True}),
    "convolution": (kernels, {"target_modules": ["first", "second"]}),
}
WITH_WEIGHTS = [name for name in SOURCES if name != "convolution"]


@dataclass(frozen=True)
class Source:
    """An adapter, another one for the same model, and what the first does when loaded."""

    base: Base
    folder: Path
    safe: Path
    adapter: Adapter
    deltas: Deltas


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    made: dict[str, Source] = {}

    def get(name: str) -> Source:
        if name not in made:
            base, config = SOURCES[name]
            folder = tmp_path_factory.mktemp(name)
            source = save_adapter(folder / "tuned", base, **config)
            safe = save_adapter(folder / "safe", base, **config, init_lora_weights="gaussian")
            differ(safe)
            made[name] = Source(base, source, safe, open_adapter(source), deltas(source, base))
        return made[name]

    return get


def differ(folder: Path) -> None:
    """Other numbers, and another scale than the first adapter has."""
    tensors = load_file(folder / WEIGHTS)
    for seed, key in enumerate(sorted(key for key in tensors if "lora_" in key)):
        tensors[key] = 0.3 * draw(*tensors[key].shape, seed=1000 + seed)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text())
    config["lora_alpha"] = 5
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a base and an aligned model by the function that builds them."""
    made: dict[Base, dict[str, Checkpoint]] = {}

    def get(base: Base) -> dict[str, Checkpoint]:
        if base not in made:
            folder = tmp_path_factory.mktemp("models")
            model = base()
            model.save_pretrained(folder / "base")
            torch.manual_seed(5)
            for parameter in model.parameters():
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
            model.save_pretrained(folder / "aligned")
            made[base] = {role: Checkpoint(folder / role) for role in ("base", "aligned")}
        return made[base]

    return get


def deltas(folder: Path, base: Base = llama) -> Deltas:
    """What PEFT adds to each weight matrix (m, n), a kernel flattened; loading says nothing."""
    with nothing_said():
        model = load(base, folder)
    return deltas_of(model, base)


def deltas_of(model: torch.nn.Module, base: Base) -> Deltas:
    """The same of a model that is loaded."""
    found = {}
    for name, layer in lora_layers(model).items():
        delta = layer.get_delta_weight("default").detach().double().numpy()
        found[name] = (delta.T if base is gpt2 else delta).reshape(-1, *delta.shape[2:])
        shape = delta.T.shape if base is gpt2 else delta.shape
        found[name] = found[name].reshape(shape[0], -1)
    return found


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal but for rounding to float32."""
    return bool(np.linalg.norm(found - wanted) <= max(norm_tolerance(wanted), 1e-9))


def some(names: tuple[ModuleName, ...]) -> list[ModuleName]:
    """Every third module."""
    return list(names[::3])


def untouched(source: Source, out: Path, edited: list[ModuleName]) -> bool:
    """Whether the tensors of all other modules have the same bytes, dtypes and shapes."""
    before, after = load_file(source.folder / WEIGHTS), load_file(out / WEIGHTS)
    own = {key for name in edited for key in source.adapter.slots[name].keys[:2]}
    others = before.keys() - own
    assert before.keys() == after.keys()
    assert others or len(edited) == len(source.adapter.names)
    return all(
        before[key].dtype == after[key].dtype
        and before[key].shape == after[key].shape
        and before[key].tobytes() == after[key].tobytes()
        for key in others
    )


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text())


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def alignment(models: Mapping[str, Checkpoint], adapter: Adapter, name: ModuleName) -> np.ndarray:
    slot = adapter.slots[name]
    return models["aligned"].matrix(name, slot) - models["base"].matrix(name, slot)


@pytest.mark.numerics
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_project_is_c_times_the_update(sources, models, tmp_path, name):
    source = sources(name)
    weights = models(source.base)
    chosen = some(source.adapter.names)
    prune(source.adapter, chosen, tmp_path / "out", edit=Project(), **weights)
    found = deltas(tmp_path / "out", source.base)
    for module in chosen:
        V = alignment(weights, source.adapter, module)
        C = V @ V.T / np.linalg.norm(V)
        assert close(found[module], C @ source.deltas[module]), module
        assert not close(found[module], source.deltas[module])
        A = source.adapter.slots[module].keys[source.adapter.slots[module].kind == "embedding"]
        before, after = load_file(source.folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
        assert before[A].tobytes() == after[A].tobytes()
    assert untouched(source, tmp_path / "out", chosen)
    assert config_of(tmp_path / "out") == config_of(source.folder)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
@pytest.mark.parametrize("energy", [0.5, 0.9])
def test_project_on_the_subspace_is_the_projector(sources, models, tmp_path, name, energy):
    source = sources(name)
    weights = models(source.base)
    chosen = some(source.adapter.names)
    edit = Project(projection="subspace", energy=energy)
    once = prune(source.adapter, chosen, tmp_path / "once", edit=edit, **weights)
    prune(once, chosen, tmp_path / "twice", edit=edit, **weights)
    found, again = deltas(tmp_path / "once", source.base), deltas(tmp_path / "twice", source.base)
    for module in chosen:
        U, s, _ = np.linalg.svd(alignment(weights, source.adapter, module))
        k = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), energy)) + 1
        assert close(found[module], U[:, :k] @ U[:, :k].T @ source.deltas[module]), module
        assert close(again[module], found[module])
    assert untouched(source, tmp_path / "once", chosen)


def test_project_needs_both_models_and_a_difference_between_them(sources, models, tmp_path):
    source, weights = sources("plain"), models(llama)
    chosen = source.adapter.names[:1]
    with pytest.raises(ParameterError, match="needs the aligned and the base weights"):
        plan(source.adapter, chosen, edit=Project())
    with pytest.raises(ParameterError, match="needs the aligned weights"):
        plan(source.adapter, chosen, edit=Project(), base=weights["base"])
    with pytest.raises(UnsupportedError, match="are identical"):
        plan(source.adapter, chosen, edit=Project(), base=weights["base"], aligned=weights["base"])


def test_project_refuses_weights_that_are_not_numbers():
    module = LoraModule(Q, draw(2, 4).astype(float), draw(3, 2).astype(float), 1.0)
    broken = Weights(np.zeros((3, 4)), np.full((3, 4), np.nan))
    with pytest.raises(UnsupportedError, match="hold NaN or Inf"):
        Project()(module, broken)


def ssi_of(adapter: Adapter) -> dict[str, float]:
    return {score.module: score.parts["ssi"] for score in scan(adapter).scores}


def reachable(adapter: Adapter) -> float:
    """The lowest level between modules that every module can be brought down to.

    Modules as tiny as these have a high index even when their spectrum is flat.
    """
    values = sorted(ssi_of(adapter).values())
    for low, high in itertools.pairwise(values):
        try:
            plan(adapter, adapter.names, edit=Flatten(level=(low + high) / 2))
        except UnsupportedError:
            continue
        return (low + high) / 2
    raise AssertionError("no level can be reached")


@pytest.mark.parametrize("name", SOURCES)
def test_flatten_brings_the_index_down_and_nothing_up(sources, tmp_path, name):
    source = sources(name)
    before = ssi_of(source.adapter)
    level = reachable(source.adapter)
    chosen = list(source.adapter.names)
    written = prune(source.adapter, chosen, tmp_path / "out", edit=Flatten(level=level))
    found = deltas(tmp_path / "out", source.base)
    above = [module for module in chosen if before[module] > level]
    assert 0 < len(above) < len(chosen)
    for module, index in ssi_of(written).items():
        assert index <= level + 1e-6, module
    for module in above:
        r = source.adapter.slots[module].rank
        U, s, Vh = np.linalg.svd(source.deltas[module])
        t = np.linalg.svd(found[module], compute_uv=False)
        assert (t[:r] <= s[:r] * (1 + 1e-5)).all()
        assert t[0] < s[0] * (1 - 1e-6)
        cap = np.minimum(s[:r], t[0])
        assert close(found[module], (U[:, :r] * cap) @ Vh[:r]), "the directions stay"
        assert written.slots[module].rank == r
        assert written.slots[module].scaling == source.adapter.slots[module].scaling
    assert untouched(source, tmp_path / "out", above)
    assert config_of(tmp_path / "out") == config_of(source.folder)


@pytest.mark.numerics
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    r=st.integers(2, 6),
    spike=st.floats(1, 30),
    keep=st.integers(2, 6),
    share=st.floats(0.05, 0.95),
)
def test_flatten_holds_its_level_in_float32_or_refuses(seed, r, spike, keep, share):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((r, 12)), rng.standard_normal((9, r))
    A[0] *= spike
    module = LoraModule(Q, A, B, 2.0)
    floor = 1 / min(keep, r)
    edit = Flatten(level=floor + share * (1 - floor), keep=keep)
    try:
        made = edit(module, Weights())
    except UnsupportedError:
        caps = np.geomspace(thin_svd(B, A).s[0], thin_svd(B, A).s[-1], 64)
        assert not any(edit._capped(thin_svd(B, A), cap, r) for cap in caps)
        return
    rounded = [np.asarray(factor, np.float32) for factor in (made.B, made.A)]
    assert edit._ssi(thin_svd(*rounded)) <= edit.level + 1e-6
    assert (thin_svd(*rounded).s <= thin_svd(B, A).s * (1 + 1e-5)).all()


def test_flatten_refuses_what_no_cap_can_reach(tmp_path):
    one = write_adapter(
        tmp_path / "a", {name: (draw(1, 6), draw(8, 1)) for name in NAMES}, {"r": 1}
    )
    with pytest.raises(UnsupportedError, match="no cap of its spectrum") as caught:
        plan(open_adapter(one), [Q], edit=Flatten(level=0.9))
    assert "drop" in caught.value.hint
    assert plan(open_adapter(one), [Q], edit=Flatten(level=1.0)).edits == {}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("factor", [0.5, 0.3, 0.0])
def test_scale_makes_the_update_smaller_and_changes_nothing_else(sources, tmp_path, name, factor):
    source = sources(name)
    chosen = some(source.adapter.names)
    written = prune(source.adapter, chosen, tmp_path / "out", edit=Scale(factor=factor))
    found = deltas(tmp_path / "out", source.base)
    before, after = load_file(source.folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    for module in chosen:
        assert close(found[module], factor * source.deltas[module]), module
        slot = source.adapter.slots[module]
        assert written.slots[module].rank == slot.rank
        assert written.slots[module].scaling == slot.scaling
        A = slot.keys[slot.kind == "embedding"]
        assert before[A].tobytes() == after[A].tobytes()
    assert untouched(source, tmp_path / "out", chosen)
    assert config_of(tmp_path / "out") == config_of(source.folder)
    manifest = manifest_of(tmp_path / "out")
    assert manifest["edit"] == {"name": "scale", "params": {"factor": factor}}
    assert sorted(manifest["replaced"]) == sorted(chosen)


def test_scale_by_a_half_is_exact_and_adds_up(sources, tmp_path):
    source = sources("plain")
    names = source.adapter.names
    once = prune(source.adapter, names, tmp_path / "once", edit=Scale())
    prune(once, names, tmp_path / "twice", edit=Scale())
    prune(source.adapter, names, tmp_path / "quarter", edit=Scale(factor=0.25))
    assert (tmp_path / "twice" / WEIGHTS).read_bytes() == (
        tmp_path / "quarter" / WEIGHTS
    ).read_bytes()


def test_scale_by_one_changes_no_byte(sources, tmp_path):
    source = sources("plain")
    names = source.adapter.names
    assert plan(source.adapter, names, edit=Scale(factor=1.0)).edits == {}
    prune(source.adapter, names, tmp_path / "out", edit=Scale(factor=1.0))
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (source.folder / WEIGHTS).read_bytes()


def test_scale_by_nothing_is_the_model_without_the_update(sources, tmp_path):
    source = sources("plain")
    prune(source.adapter, source.adapter.names, tmp_path / "out", edit=Scale(factor=0.0))
    assert torch.equal(logits(load(llama, tmp_path / "out")), logits(llama()))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("energy", [0.3, 0.6, 0.8])
def test_truncate_keeps_the_fewest_directions_that_hold_the_energy(sources, tmp_path, name, energy):
    source = sources(name)
    chosen = some(source.adapter.names)
    written = prune(source.adapter, chosen, tmp_path / "out", edit=Truncate(energy=energy))
    found = deltas(tmp_path / "out", source.base)
    replaced = manifest_of(tmp_path / "out")["replaced"]
    for module in chosen:
        U, s, Vh = np.linalg.svd(source.deltas[module], full_matrices=False)
        share = np.cumsum(s**2) / (s**2).sum()
        k = int(np.argmax(share >= energy)) + 1
        assert written.slots[module].rank == k, module
        assert close(found[module], (U[:, :k] * s[:k]) @ Vh[:k])
        if k < source.adapter.slots[module].rank:
            lost = np.linalg.norm(found[module] - source.deltas[module])
            assert lost == pytest.approx(np.sqrt((s[k:] ** 2).sum()), rel=1e-4)
            assert replaced[module]["rank"] == k
            assert replaced[module]["error"] == pytest.approx(np.sqrt(1 - share[k - 1]), rel=1e-4)
            assert config_of(tmp_path / "out")["rank_pattern"][module] == k
    assert any(written.slots[m].rank < source.adapter.slots[m].rank for m in chosen)
    assert untouched(source, tmp_path / "out", chosen)
    assert config_of(tmp_path / "out")["lora_alpha"] == config_of(source.folder)["lora_alpha"]


@pytest.mark.parametrize("name", ["plain", "patterns"])
def test_truncate_to_all_energy_changes_no_byte(sources, tmp_path, name):
    source = sources(name)
    names = source.adapter.names
    planned = plan(source.adapter, names, edit=Truncate(energy=1.0))
    assert planned.edits == {}
    assert planned.notes == ()
    prune(source.adapter, names, tmp_path / "out", edit=Truncate(energy=1.0))
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (source.folder / WEIGHTS).read_bytes()
    assert "as it was" in (tmp_path / "out/README.md").read_text()


def test_truncate_drops_what_adds_nothing_at_all_energy(tmp_path):
    A, B = draw(3, 6), draw(8, 3)
    A[2] = A[0]  # rank two in factors of rank three
    source = write_adapter(tmp_path / "a", {Q: (A, B)}, {"r": 3})
    written = prune(open_adapter(source), [Q], tmp_path / "out", edit=Truncate(energy=1.0))
    assert written.slots[Q].rank == 2
    module = written.read(Q)
    assert close(module.scaling * module.B @ module.A, ALPHA / 3 * B.astype(float) @ A)


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["plain", "patterns", "rslora"])
def test_what_was_truncated_can_be_truncated_again(sources, tmp_path, name):
    source = sources(name)
    names = source.adapter.names
    once = prune(source.adapter, names, tmp_path / "once", edit=Truncate(energy=0.95))
    twice = prune(once, names, tmp_path / "twice", edit=Truncate(energy=0.4))
    assert any(
        twice.slots[m].rank < once.slots[m].rank < source.adapter.slots[m].rank for m in names
    )
    found, before = deltas(tmp_path / "twice"), deltas(tmp_path / "once")
    for module in names:
        U, s, Vh = np.linalg.svd(before[module])
        k = twice.slots[module].rank
        assert close(found[module], (U[:, :k] * s[:k]) @ Vh[:k])


@pytest.mark.numerics
@pytest.mark.parametrize("target", ["minimal", "fused-safe", "zero-fill"])
@pytest.mark.parametrize("name", ["plain", "patterns", "rslora"])
def test_truncated_and_folded_says_the_same_at_one_rank(sources, tmp_path, name, target):
    source = sources(name)
    chosen = some(source.adapter.names)
    for folder, fold in (("plain", False), ("folded", True)):
        edit = Truncate(energy=0.6)
        prune(source.adapter, chosen, tmp_path / folder, edit=edit, target=target, fold_scale=fold)
    with nothing_said():
        model = load(llama, tmp_path / "folded")
    plain = load(llama, tmp_path / "plain")
    folded, scaled = (deltas_of(one, llama) for one in (model, plain))
    assert [name for name in scaled if not close(folded[name], scaled[name])] == []
    assert folded.keys() >= scaled.keys(), "zero-fill leaves every module"
    assert apart(model, plain, logits) <= 1
    assert len({layer.r["default"] for layer in lora_layers(model).values()}) == 1
    assert {layer.scaling["default"] for layer in lora_layers(model).values()} == {1.0}
    assert any("--fold-scale" in note for note in manifest_of(tmp_path / "plain")["notes"])
    assert not any("--fold-scale" in note for note in manifest_of(tmp_path / "folded")["notes"])


@pytest.mark.parametrize("target", ["fused-safe", "zero-fill"])
def test_a_soft_edit_leaves_every_module_for_every_target(sources, tmp_path, target):
    source = sources("plain")
    edit = Truncate(energy=0.6)
    chosen = some(source.adapter.names)
    prune(source.adapter, chosen, tmp_path / "minimal", edit=edit)
    prune(source.adapter, chosen, tmp_path / "other", edit=edit, target=target)
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "other" / file).read_bytes() == (
            tmp_path / "minimal" / file
        ).read_bytes()
    assert open_adapter(tmp_path / "other").names == source.adapter.names


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_merge_is_exact_at_the_summed_rank(sources, tmp_path, name, weight):
    source = sources(name)
    chosen = some(source.adapter.names)
    edit = Merge(open_adapter(source.safe), weight=weight)
    written = prune(source.adapter, chosen, tmp_path / "out", edit=edit)
    found, safe = deltas(tmp_path / "out", source.base), deltas(source.safe, source.base)
    for module in chosen:
        assert close(found[module], (1 - weight) * source.deltas[module] + weight * safe[module]), (
            module
        )
        assert written.slots[module].rank == 2 * source.adapter.slots[module].rank
    assert untouched(source, tmp_path / "out", chosen)
    assert not any("exact but for" in note for note in manifest_of(tmp_path / "out")["notes"])


@pytest.mark.parametrize("form", ["product", "factors"])
@pytest.mark.parametrize("rank", ["sum", "same"])
def test_merge_with_no_weight_changes_no_byte(sources, tmp_path, rank, form):
    source = sources("plain")
    edit = Merge(open_adapter(source.safe), weight=0.0, rank=rank, form=form)
    prune(source.adapter, source.adapter.names, tmp_path / "out", edit=edit)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (source.folder / WEIGHTS).read_bytes()
    assert config_of(tmp_path / "out") == config_of(source.folder)


@pytest.mark.numerics
@pytest.mark.parametrize("name", SOURCES)
def test_merge_at_the_same_rank_is_the_best_there_is_and_says_how_far_off(sources, tmp_path, name):
    source = sources(name)
    chosen = some(source.adapter.names)
    edit = Merge(open_adapter(source.safe), weight=0.3, rank="same")
    written = prune(source.adapter, chosen, tmp_path / "out", edit=edit)
    found, safe = deltas(tmp_path / "out", source.base), deltas(source.safe, source.base)
    manifest, errors = manifest_of(tmp_path / "out"), []
    for module in chosen:
        whole = 0.7 * source.deltas[module] + 0.3 * safe[module]
        U, s, Vh = np.linalg.svd(whole, full_matrices=False)
        r = source.adapter.slots[module].rank
        assert written.slots[module].rank == r
        assert close(found[module], (U[:, :r] * s[:r]) @ Vh[:r])
        errors.append(np.linalg.norm(found[module] - whole) / np.linalg.norm(whole))
        assert manifest["replaced"][module]["error"] == pytest.approx(errors[-1], rel=1e-3)
    assert max(errors) > 0.01
    note = f"the edit is exact but for {max(errors):.2%} of an update's norm at most"
    assert manifest["notes"] == [note]
    assert note in (tmp_path / "out/README.md").read_text()
    assert config_of(tmp_path / "out") == config_of(source.folder)


@pytest.mark.numerics
@pytest.mark.parametrize("name", ["plain", "rslora", "patterns"])
def test_merge_of_factors_is_what_peft_does(sources, tmp_path, name):
    source = sources(name)
    edit = Merge(open_adapter(source.safe), weight=0.2, form="factors")
    prune(source.adapter, source.adapter.names, tmp_path / "out", edit=edit)
    found, safe = deltas(tmp_path / "out"), deltas(source.safe)
    tuned, other = source.adapter, open_adapter(source.safe)
    for module in tuned.names:
        f, s = tuned.read(module), other.read(module)
        B = np.sqrt(0.8 * f.scaling) * f.B + np.sqrt(0.2 * s.scaling) * s.B
        A = np.sqrt(0.8 * f.scaling) * f.A + np.sqrt(0.2 * s.scaling) * s.A
        assert close(found[module], B @ A), module
        assert not np.allclose(
            found[module], 0.8 * source.deltas[module] + 0.2 * safe[module], atol=1e-3
        ), "the cross terms are there"
    if name == "plain":  # PEFT gives sums of other kinds the scale of the first rank
        model = load(llama, source.folder)
        model.load_adapter(str(source.safe), "safe")
        model.add_weighted_adapter(["default", "safe"], [0.8, 0.2], "sum", "linear")
        for module, layer in lora_layers(model, "sum").items():
            assert close(found[module], layer.get_delta_weight("sum").detach().double().numpy())


def test_merge_refuses_what_does_not_fit(sources, tmp_path):
    source = sources("plain")
    q = source.adapter.names[0]
    lacking = save_adapter(tmp_path / "lacking", llama, target_modules=["v_proj"])
    with pytest.raises(ParameterError, match=r"safe adapter .*lacking has no module .*q_proj"):
        plan(source.adapter, [f"{L}0.self_attn.q_proj"], edit=Merge(open_adapter(lacking)))
    other = write_adapter(tmp_path / "shape", [f"{L}0.self_attn.q_proj"])
    with pytest.raises(ParameterError, match="has another shape"):
        plan(source.adapter, [f"{L}0.self_attn.q_proj"], edit=Merge(open_adapter(other)))
    ranked = save_adapter(tmp_path / "rank", llama, target_modules=EVERY, r=3)
    with pytest.raises(ParameterError, match="another rank"):
        plan(source.adapter, [q], edit=Merge(open_adapter(ranked), form="factors"))
    dora = save_adapter(tmp_path / "dora", llama, target_modules=EVERY, use_dora=True)
    with pytest.raises(UnsupportedError, match="DoRA"):
        plan(source.adapter, [q], edit=Merge(open_adapter(dora)))
    tensors = load_file(source.safe / WEIGHTS)
    tensors[source.adapter.slots[q].keys[0]][0, 0] = np.nan
    broken = write_adapter(tmp_path / "nan", [], {"target_modules": EVERY, "r": 4}, extra=tensors)
    with pytest.raises(UnsupportedError, match=r"NaN or Inf in .*nan"):
        plan(source.adapter, [q], edit=Merge(open_adapter(broken)))


def test_merge_of_a_negative_scale_has_no_factors_but_a_product(tmp_path):
    source = open_adapter(write_adapter(tmp_path / "a", config={"lora_alpha": -3}))
    safe = open_adapter(write_adapter(tmp_path / "safe"))
    with pytest.raises(UnsupportedError, match="negative scale"):
        plan(source, [Q], edit=Merge(safe, form="factors"))
    written = prune(source, [Q], tmp_path / "out", edit=Merge(safe, weight=0.5))
    f, s, found = source.read(Q), safe.read(Q), written.read(Q)
    wanted = 0.5 * (f.scaling * f.B @ f.A + s.scaling * s.B @ s.A)
    assert close(found.scaling * found.B @ found.A, wanted)


@pytest.mark.parametrize("rank", ["sum", "same"])
def test_merge_may_cancel_an_update(tmp_path, rank):
    source = open_adapter(write_adapter(tmp_path / "a"))
    opposite = open_adapter(write_adapter(tmp_path / "b", config={"lora_alpha": -ALPHA}))
    edit = Merge(opposite, weight=0.5, rank=rank)
    written = prune(source, [Q], tmp_path / "out", edit=edit)
    module = written.read(Q)
    assert np.abs(module.B @ module.A).max() < 1e-5
    assert manifest_of(tmp_path / "out")["replaced"][Q]["error"] <= 1


@pytest.mark.parametrize("edit", [Truncate(), Scale(), Flatten(level=0.5)])
def test_an_update_of_zero_stays_as_it_is(tmp_path, edit):
    zero = {name: (draw(2, 6), np.zeros((8, 2), np.float32)) for name in NAMES}
    source = open_adapter(write_adapter(tmp_path / "a", zero))
    assert plan(source, NAMES, edit=edit).edits == {}


@pytest.mark.parametrize(
    ("base", "config", "message"),
    [
        (llama, {"target_modules": ["q_proj"], "use_dora": True}, "DoRA"),
        (llama, {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "pissa"),
        (
            mixtral,
            {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
            "one of a stack of experts",
        ),
    ],
    ids=["dora", "pissa", "experts"],
)
@pytest.mark.parametrize("edit", ["truncate", "flatten", "project", "merge"])
def test_what_has_no_plain_factors_is_refused(models, tmp_path, base, config, message, edit):
    folder = save_adapter(tmp_path / "a", base, **config)
    adapter = open_adapter(folder)
    if base is mixtral and edit == "project":
        pytest.skip("a saved Mixtral has no stacks, which is said first")
    params = {"flatten": {"level": 0.5}, "merge": {"safe": adapter}}.get(edit, {})
    editor = make_editor(edit, params)
    weights = models(base) if editor.needs else {}
    with pytest.raises(UnsupportedError, match=f"(?i){message}"):
        prune(adapter, adapter.names[:1], tmp_path / "out", edit=editor, **weights)
    assert not (tmp_path / "out").exists()


def test_nan_an_overflow_and_a_scale_of_zero_are_refused(tmp_path):
    A, B = draw(2, 6), draw(8, 2)
    A[0, 0] = np.nan
    nan = open_adapter(write_adapter(tmp_path / "nan", {Q: (A, B)}))
    with pytest.raises(UnsupportedError, match="NaN or Inf"):
        plan(nan, [Q], edit=Truncate())
    huge = lora(Q, 1e60 * draw(2, 6).astype(np.float64), 1e60 * draw(8, 2).astype(np.float64))
    big = open_adapter(write_adapter(tmp_path / "big", [], extra=huge))
    with pytest.raises(UnsupportedError, match="does not fit float32"):
        plan(big, [Q], edit=Truncate(energy=0.1))
    still = open_adapter(write_adapter(tmp_path / "still", config={"lora_alpha": 0}))
    with pytest.raises(UnsupportedError, match="scale of zero"):
        plan(still, [Q], edit=Truncate(energy=0.1))


def test_manifest_and_card_say_what_was_done(sources, models, tmp_path):
    source = sources("plain")
    chosen = some(source.adapter.names)
    edit = Project(projection="subspace", energy=0.5)
    prune(source.adapter, chosen, tmp_path / "out", edit=edit, **models(llama))
    manifest, card = manifest_of(tmp_path / "out"), (tmp_path / "out/README.md").read_text()
    assert manifest["edit"] == {
        "name": "project",
        "params": {"projection": "subspace", "energy": 0.5},
    }
    assert manifest["replaced"] == {name: {"rank": 4, "error": 0.0} for name in chosen}
    assert manifest["dropped"] == manifest["zeroed"] == []
    assert "edited by `project` (projection = subspace, energy = 0.5)" in card
    for name in chosen:
        assert f"- `{name}`: given other factors of rank 4" in card
    safe = open_adapter(source.safe)
    prune(source.adapter, chosen, tmp_path / "merged", edit=Merge(safe))
    params = manifest_of(tmp_path / "merged")["edit"]["params"]
    assert params["with"] == str(source.safe)
    assert params["sha256"] == safe.digest


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_an_edited_module_is_float32_and_the_others_keep_their_type(tmp_path, dtype):
    source = open_adapter(write_adapter(tmp_path / "a", dtype=dtype))
    written = prune(source, [Q], tmp_path / "out", edit=Truncate(energy=0.5))
    for name in NAMES:
        kinds = {written.tensors.infos[key].dtype for key in written.slots[name].keys}
        assert kinds == {"F32" if name == Q else dtype}


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("project", {"projection": "dense"}, "projection='dense'"),
        ("project", {"energy": "0"}, "energy=0"),
        ("project", {"energy": "nan"}, "energy=nan"),
        ("truncate", {"energy": "1.5"}, "energy=1.5"),
        ("truncate", {"energy": "much"}, "energy='much'"),
        ("truncate", {"k": "3"}, "no parameter 'k'"),
        ("flatten", {}, "needs the parameter 'level'"),
        ("flatten", {"level": "0"}, "level=0"),
        ("flatten", {"level": "nan"}, "level=nan"),
        ("flatten", {"level": "0.5", "keep": "0"}, "keep=0"),
        ("flatten", {"level": "0.5", "keep": "2.5"}, "keep='2.5'"),
        ("scale", {"factor": "1.5"}, "factor=1.5"),
        ("scale", {"factor": "-0.1"}, "factor=-0.1"),
        ("scale", {"factor": "nan"}, "factor=nan"),
        ("scale", {"factor": "half"}, "factor='half'"),
        ("scale", {"rank": "2"}, "no parameter 'rank'"),
        ("smooth", {}, "no edit 'smooth'"),
    ],
)
def test_a_wrong_parameter_is_named(name, params, message):
    with pytest.raises(ParameterError, match=message):
        make_editor(name, params)


@pytest.mark.parametrize(
    "params",
    [{"weight": 1.1}, {"weight": -0.1}, {"weight": float("nan")}, {"rank": "4"}, {"form": "x"}],
)
def test_a_wrong_merge_is_named(sources, params):
    with pytest.raises(ParameterError, match="merge cannot take"):
        Merge(sources("plain").adapter, **params)


def run(*args: object) -> Any:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def asked(source: Source, out: Path, *args: object) -> Any:
    return run("prune", source.folder, "-o", out, "--fail-on", "high", *args)


def test_the_command_line_edits(sources, models, tmp_path):
    source, weights = sources("plain"), models(llama)
    q = f"{L}0.self_attn.q_proj"
    told = asked(source, tmp_path / "t", "--modules", q, "--edit", "truncate", "-e", "energy=0.5")
    assert told.exit_code == 0, told.output
    assert open_adapter(tmp_path / "t").slots[q].rank < 4
    base, aligned = weights["base"].folder, weights["aligned"].folder
    both = ("--base", base, "--aligned", aligned)
    told = asked(source, tmp_path / "p", "--modules", q, "--edit", "project", *both)
    assert told.exit_code == 0, told.output
    assert manifest_of(tmp_path / "p")["edit"]["params"]["projection"] == "safe-lora"
    told = asked(source, tmp_path / "s", "--modules", q, "--edit", "scale", "-e", "factor=0.2")
    assert told.exit_code == 0, told.output
    assert manifest_of(tmp_path / "s")["edit"]["params"] == {"factor": 0.2}
    assert close(deltas(tmp_path / "s")[q], 0.2 * source.deltas[q])
    told = asked(source, tmp_path / "f", "--top-k", 28, "--edit", "flatten")
    assert told.exit_code == 0, told.output
    median = float(np.median(list(ssi_of(source.adapter).values())))
    assert manifest_of(tmp_path / "f")["edit"]["params"] == {"level": median, "keep": 5}
    assert max(ssi_of(open_adapter(tmp_path / "f")).values()) <= median + 1e-6


def test_safemerge_leaves_what_is_at_or_above_the_threshold(sources, models, tmp_path):
    source, weights = sources("plain"), models(llama)
    table = scan(source.adapter, "safe-lora", **weights)
    values = {score.module: score.value for score in table.scores}
    threshold = float(np.sort(list(values.values()))[10:12].mean())
    told = asked(
        source, tmp_path / "out", "-m", "safe-lora", "--threshold", threshold,
        "--base", weights["base"].folder, "--aligned", weights["aligned"].folder,
        "--edit", "merge", "--with", source.safe, "-e", "weight=0.2", "-e", "rank=same",
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    below = sorted(name for name, value in values.items() if value < threshold)
    assert len(below) == 11
    assert sorted(manifest_of(tmp_path / "out")["replaced"]) == below
    assert untouched(source, tmp_path / "out", below)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--edit", "merge"], "--edit merge and --with SAFE belong together"),
        (["--edit", "truncate", "--with", "x"], "--edit merge and --with SAFE belong together"),
        (["--edit", "drop", "-e", "energy=1"], "--edit drop has no parameters"),
        (["--edit", "zero", "-e", "energy=1"], "--edit zero has no parameters"),
        (["--edit", "truncate", "-e", "energy"], "-e 'energy' is no NAME=VALUE"),
        (["--edit", "truncate", "-e", "energy=2"], "energy=2.0 is no share"),
        (["--edit", "project"], "needs the aligned and the base weights"),
        (["--edit", "smooth"], "Invalid value for '--edit'"),
    ],
)
def test_the_command_line_refuses(sources, tmp_path, args, message):
    told = asked(sources("plain"), tmp_path / "out", "--top-k", 1, *args)
    assert told.exit_code == 2
    assert message in told.output
    assert not (tmp_path / "out").exists()


def test_every_module_may_be_edited_but_not_dropped(sources, tmp_path):
    source = sources("plain")
    names = source.adapter.names
    written = prune(source.adapter, names, tmp_path / "out", edit=Truncate(energy=0.5))
    assert written.names == names
    with nothing_said():
        again = load(llama, tmp_path / "out")
    assert isinstance(again.peft_config["default"], LoraConfig)
    with pytest.raises(ParameterError, match="no module would stay"):
        plan(source.adapter, names)
