"""LoX as an adapter: held to the dense result, and merged into the aligned model by PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from models import Base, gpt2, llama, load, logits, nothing_said
from s3lora import open_adapter
from s3lora.cli import cli
from s3lora.errors import OutputError, ParameterError, UnsupportedError
from s3lora.extrapolate import extrapolate, leading_directions
from s3lora.io.checkpoint import Checkpoint
from tolerances import norm_tolerance

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

WEIGHTS = "model.safetensors"
ALL = 10**6
"""More directions than any matrix has."""

Weights = dict[str, torch.Tensor]


def aligned_of(base: Base) -> Base:
    """Another model of the same shapes: every parameter is moved, matrices mostly along a few."""

    def build() -> Any:
        model = base()
        torch.manual_seed(7)
        for parameter in model.parameters():
            moved = torch.randn_like(parameter) * 0.02
            if parameter.ndim == 2:
                U, V = torch.randn(parameter.shape[0], 3), torch.randn(3, parameter.shape[1])
                moved = moved + 0.1 * (U * torch.tensor([3.0, 2.0, 1.0])) @ V
            parameter.data.add_(moved)
        return model

    return build


aligned_llama, aligned_gpt2 = aligned_of(llama), aligned_of(gpt2)
MODELS = {"llama": (llama, aligned_llama), "gpt2": (gpt2, aligned_gpt2)}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    made: dict[str, tuple[Checkpoint, Checkpoint]] = {}

    def get(name: str) -> tuple[Checkpoint, Checkpoint]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            for role, build in zip(("base", "aligned"), MODELS[name], strict=True):
                build().save_pretrained(folder / role)
            made[name] = Checkpoint(folder / "base"), Checkpoint(folder / "aligned")
        return made[name]

    return get


def weights_of(model: torch.nn.Module) -> Weights:
    return {key: value.double() for key, value in model.state_dict().items()}


def merged(build: Base, folder: Path) -> Weights:
    """The weights of the aligned model after PEFT has merged the adapter into it."""
    with nothing_said():
        return weights_of(load(build, folder).merge_and_unload())


def is_amplified(key: str, weight: torch.Tensor) -> bool:
    looked_up = ("embed_tokens", "lm_head", "wte", "wpe")
    return weight.ndim == 2 and not any(name in key for name in looked_up)


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return float((found - wanted).norm()) <= norm_tolerance(wanted)


@pytest.mark.numerics
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("k", "alpha"), [(1, 1.25), (2, -0.5), (6, 1.25)])
def test_merged_into_the_aligned_model_it_is_lox(folders, tmp_path, name, k, alpha):
    build, build_aligned = MODELS[name]
    made = extrapolate(*folders(name), tmp_path / "out", k=k, alpha=alpha)
    found = merged(build_aligned, tmp_path / "out")
    base, aligned = weights_of(build()), weights_of(build_aligned())
    amplified = {key for key, weight in aligned.items() if is_amplified(key, weight)}
    assert {f"{module}.weight" for module in made.names} == amplified
    for key, weight in aligned.items():
        if key not in amplified:
            assert torch.equal(found[key], weight), key
            continue
        U, s, Vh = torch.linalg.svd(weight - base[key], full_matrices=False)
        step = alpha * (U[:, :k] * s[:k]) @ Vh[:k]
        assert close(found[key], weight + step), key
        assert not close(found[key], weight)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_added_is_the_aligned_model(folders, tmp_path, name):
    made = extrapolate(*folders(name), tmp_path / "out", alpha=0.0)
    assert all(not made.read(module).B.any() for module in made.names)
    found, aligned = merged(MODELS[name][1], tmp_path / "out"), weights_of(MODELS[name][1]())
    assert all(torch.equal(found[key], aligned[key]) for key in aligned)


@pytest.mark.numerics
@pytest.mark.parametrize("name", MODELS)
def test_everything_taken_back_is_the_base_model(folders, tmp_path, name):
    build, build_aligned = MODELS[name]
    extrapolate(*folders(name), tmp_path / "out", k=ALL, alpha=-1.0)
    found, base, aligned = (
        merged(build_aligned, tmp_path / "out"), weights_of(build()), weights_of(build_aligned()),
    )  # fmt: skip
    for key, weight in aligned.items():
        assert close(found[key], base[key] if is_amplified(key, weight) else weight), key


@pytest.mark.parametrize("k", [1, 4, 6])
def test_the_update_has_rank_k_and_the_size_it_should(folders, tmp_path, k):
    base, aligned = weights_of(llama()), weights_of(aligned_llama())
    made = extrapolate(*folders("llama"), tmp_path / "out", k=k, alpha=1.5)
    for name in made.names:
        module = made.read(name)
        D = (aligned[f"{name}.weight"] - base[f"{name}.weight"]).numpy()
        s = np.linalg.svd(D, compute_uv=False)
        assert module.A.shape[0] == module.B.shape[1] == made.slots[name].rank == k
        size = np.linalg.norm(module.scaling * module.B @ module.A)
        assert size == pytest.approx(1.5 * np.sqrt((s[:k] ** 2).sum()), rel=1e-6)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_energy_picks_the_smallest_k_for_each_matrix(folders, tmp_path, energy):
    base, aligned = weights_of(llama()), weights_of(aligned_llama())
    made = extrapolate(*folders("llama"), tmp_path / "out", energy=energy)
    ranks = set()
    for name in made.names:
        D = (aligned[f"{name}.weight"] - base[f"{name}.weight"]).numpy()
        share = np.cumsum(np.linalg.svd(D, compute_uv=False) ** 2) / (D * D).sum()
        k = made.slots[name].rank
        assert share[k - 1] >= energy - 1e-12
        assert k == 1 or share[k - 2] < energy
        ranks.add(k)
    assert energy in (0.5, 0.99) or len(ranks) > 1
    found = merged(aligned_llama, tmp_path / "out")
    assert not any(close(found[f"{name}.weight"], aligned[f"{name}.weight"]) for name in made.names)


def spectrum(kind: str, m: int, n: int) -> np.ndarray:
    """A matrix (m, n) of a given kind of spectrum."""
    rng = np.random.default_rng(3)
    if kind == "gaussian":
        return rng.standard_normal((m, n))
    U, V = (np.linalg.qr(rng.standard_normal((size, min(m, n))))[0] for size in (m, n))
    at = np.arange(1, min(m, n) + 1)
    s = {"power": 1 / at, "steep": 2.0**-at, "rank three": 1.0 * (at <= 3)}[kind]
    return (U * s) @ V.T


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["gaussian", "power", "steep", "rank three"])
@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (9, 7)])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_leading_directions_are_those_of_the_dense_svd(kind, shape, k):
    D = spectrum(kind, *shape)
    U, s, Vh = leading_directions(D, k, None)
    dense = np.linalg.svd(D, full_matrices=False)
    assert np.abs(s - dense[1][:k]).max() <= 1e-6 * dense[1][0]
    wanted = (dense[0][:, :k] * dense[1][:k]) @ dense[2][:k]
    if kind != "rank three" or k >= 3:  # of three equal directions any one may be taken
        assert np.linalg.norm((U * s) @ Vh - wanted) <= 1e-6 * np.linalg.norm(wanted)
    assert np.allclose(U.T @ D @ Vh.T, np.diag(s), atol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "power", "steep"])
@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999])
def test_energy_agrees_with_the_dense_svd(kind, energy):
    D = spectrum(kind, 120, 200)
    s = np.linalg.svd(D, compute_uv=False)
    k = int(np.argmax(np.cumsum(s**2) / (s**2).sum() >= energy)) + 1
    found = leading_directions(D, 2, energy)
    assert len(found[1]) == k
    assert np.allclose(found[1], s[:k], rtol=0, atol=1e-6 * s[0])


def test_the_same_every_time(folders, tmp_path):
    for name in ("a", "b"):
        extrapolate(*folders("llama"), tmp_path / name, k=3)
    for file in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_shards_are_read_as_one_file_is(folders, tmp_path):
    for role, build in (("base", llama), ("aligned", aligned_llama)):
        build().save_pretrained(tmp_path / role, max_shard_size="20KB")
        assert len(list((tmp_path / role).glob("model-*.safetensors"))) > 1
    shards = [Checkpoint(tmp_path / role) for role in ("base", "aligned")]
    extrapolate(*shards, tmp_path / "out", k=3)
    extrapolate(*folders("llama"), tmp_path / "whole", k=3)
    found, wanted = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "whole")
    )
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)


def test_what_alignment_left_alone_has_no_module(tmp_path, folders):
    base, aligned = folders("llama")
    key = "model.layers.2.mlp.up_proj.weight"
    tensors = load_file(aligned.folder / WEIGHTS)
    tensors[key] = load_file(base.folder / WEIGHTS)[key]
    other = altered(aligned.folder, tmp_path / "same", tensors)
    made = extrapolate(base, other, tmp_path / "out", k=2)
    assert key.removesuffix(".weight") not in made.names
    assert len(made.names) == 27
    with nothing_said():
        logits(load(aligned_llama, tmp_path / "out"))


def altered(source: Path, folder: Path, tensors: dict[str, np.ndarray]) -> Checkpoint:
    """A checkpoint folder with other tensors."""
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return Checkpoint(folder)


def test_models_that_do_not_belong_together_are_named(folders, tmp_path):
    base, aligned = folders("llama")
    key = "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(base.folder / WEIGHTS)
    narrow = altered(base.folder, tmp_path / "narrow", tensors | {key: tensors[key][:, :20].copy()})
    with pytest.raises(ParameterError) as caught:
        extrapolate(narrow, aligned, tmp_path / "out")
    for part in (key, "[16, 24]", "[16, 20]"):
        assert part in str(caught.value)
    lacking = altered(
        base.folder, tmp_path / "lacking", {k: tensors[k] for k in tensors if k != key}
    )
    with pytest.raises(ParameterError, match=r"no tensor for model\.layers\.1\.mlp\.down_proj"):
        extrapolate(lacking, aligned, tmp_path / "out")
    with pytest.raises(ParameterError, match="no tensor for"):
        extrapolate(folders("gpt2")[0], aligned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_and_itself_have_no_alignment(folders, tmp_path):
    base, _ = folders("llama")
    with pytest.raises(ParameterError, match="identical"):
        extrapolate(base, base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_refused(folders, tmp_path):
    base, aligned = folders("llama")
    key = "model.layers.0.mlp.up_proj.weight"
    tensors = load_file(aligned.folder / WEIGHTS)
    tensors[key] = np.full_like(tensors[key], np.nan)
    broken = altered(aligned.folder, tmp_path / "broken", tensors)
    with pytest.raises(UnsupportedError, match=r"up_proj holds NaN or Inf"):
        extrapolate(base, broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_refused_before_any_work(folders, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("s3lora.extrapolate.leading_directions", None)
    with pytest.raises(OutputError, match="exists already"):
        extrapolate(*folders("llama"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "params",
    [{"k": 0}, {"alpha": float("nan")}, {"alpha": float("inf")}, {"energy": 0.0}, {"energy": 1.1}],
)
def test_a_wrong_parameter_is_refused(folders, tmp_path, params):
    with pytest.raises(ParameterError, match="cannot extrapolate with"):
        extrapolate(*folders("llama"), tmp_path / "out", **params)
    assert not (tmp_path / "out").exists()


def run(*args: object) -> Any:
    return CliRunner().invoke(cli, ["extrapolate", *[str(arg) for arg in args]])


def test_the_command_line(folders, tmp_path):
    base, aligned = folders("llama")
    both = ("--base", base.folder, "--aligned", aligned.folder)
    told = run(*both, "-k", 2, "--alpha", 0.5, "-o", tmp_path / "out")
    assert told.exit_code == 0, told.output
    assert "28 modules" in told.output
    made = open_adapter(tmp_path / "out")
    assert {slot.rank for slot in made.slots.values()} == {2}
    assert made.findings == ()
    assert "amplified by 0.5" in (tmp_path / "out/README.md").read_text()
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "aligned"
    told = run(*both, "--energy", 0.9, "-o", tmp_path / "energy")
    assert told.exit_code == 0, told.output
    assert len({slot.rank for slot in open_adapter(tmp_path / "energy").slots.values()}) > 1
    again = run(*both, "-o", tmp_path / "out")
    assert again.exit_code == 2
    assert "exists already" in again.output
    for wrong in (["-k", 0], ["--energy", 2], ["--alpha", "nan"], ["-k", "all"]):
        assert run(*both, *wrong, "-o", tmp_path / "wrong").exit_code == 2
    assert not (tmp_path / "wrong").exists()
    assert run("--base", base.folder, "-o", tmp_path / "x").exit_code == 2
