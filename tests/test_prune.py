"""What `prune` writes, refuses and leaves alone; how loaders take it is in test_loaders.py."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt
from safetensors import SafetensorError

from adapters import (
    CODES,
    CONFIG,
    NAMES,
    PREFIX,
    WEIGHTS,
    Q,
    V,
    config_fields,
    draw,
    factors,
    lora,
    tensor_bytes,
    write_adapter,
    write_raw,
    write_tensors,
)
from s3lora import Named, TopK, open_adapter, plan, prune, scan
from s3lora.adapter import Adapter, Drop, ModuleName, Zero
from s3lora.cli import cli
from s3lora.edits.truncate import Truncate
from s3lora.errors import AdapterError, OutputError, ParameterError, UnsupportedError
from s3lora.io import atomic
from s3lora.io.atomic import new_folder, write_file
from s3lora.scores import ScoreTable
from s3lora.verify import BROKEN

prune_module = importlib.import_module("s3lora.prune")  # the package has a function of that name

Make = Callable[..., Path]

MLP = ("gate_proj", "up_proj", "down_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EXPERTS = "model.layers.0.mlp.experts"


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make a source with one of the builders; in the end it must be as it was."""
    before: dict[Path, dict[str, str]] = {}

    def build(*args: Any, by: Callable[..., Path] = write_adapter, **kwargs: Any) -> Path:
        folder = by(tmp_path / f"source{len(before) or ''}", *args, **kwargs)
        before[folder] = hashes(folder)
        return folder

    yield build
    assert {folder: hashes(folder) for folder in before} == before


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def names_of(*leaves: str, layers: int = 1) -> list[str]:
    return [
        f"model.layers.{layer}.{'mlp' if leaf in MLP else 'self_attn'}.{leaf}"
        for layer in range(layers)
        for leaf in leaves
    ]


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text())


def raw(adapter: Adapter) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor by key, in the order of the file: dtype, shape and bytes."""
    infos = adapter.tensors.infos
    return {
        key: (infos[key].dtype, infos[key].shape, b"".join(adapter.tensors.chunks(key)))
        for key in sorted(infos, key=lambda key: infos[key].start)
    }


def update(adapter: Adapter, name: str) -> Any:
    module = adapter.read(name)
    return module.scaling * module.B @ module.A


def output_hashes(folder: Path) -> dict[str, str]:
    """What a manifest says of the folder that it is in: itself is not among it."""
    return {name: digest for name, digest in hashes(folder).items() if name != "s3lora.json"}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".partial")]


# --- minimal -------------------------------------------------------------------------------------


def test_what_is_dropped_is_gone_and_what_stays_is_named_in_full(make, out):
    modules = names_of("q_proj", "v_proj", layers=11)
    written = prune(open_adapter(make(modules)), [Q], out)
    assert set(written.names) == set(modules) - {Q}
    assert config_of(out)["target_modules"] == sorted(written.names)
    assert not [key for key in written.tensors.infos if Q in key]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_what_stays_is_byte_identical_and_in_the_same_order(make, out, dtype):
    source = open_adapter(make(dtype=dtype))
    written = prune(source, [V], out)
    stays = {key: tensor for key, tensor in raw(source).items() if V not in key}
    assert list(raw(written).items()) == list(stays.items())
    assert {dtype} == {kind for kind, _, _ in stays.values()}


def test_metadata_of_the_weights_file_stays(make, out):
    weights = tensor_bytes(lora(Q, *factors()) | lora(V, *factors()), {"format": "pt"})
    written = prune(open_adapter(make(weights, config_fields(), by=write_raw)), [V], out)
    assert written.tensors.metadata == {"format": "pt"}


@pytest.mark.parametrize("field", ["exclude_modules", "layers_to_transform", "layers_pattern"])
def test_another_selection_is_emptied_if_the_source_had_it_and_never_added(make, out, field):
    value = {"exclude_modules": ["k_proj"], "layers_to_transform": [0, 1], "layers_pattern": "x"}
    plain = open_adapter(make())
    with_field = open_adapter(make(config={field: value[field], "layers_pattern": "layers"}))
    prune(with_field, [Q], out)
    assert config_of(out)[field] is None
    prune(plain, [Q], out.with_name("plain"))
    assert config_of(out.with_name("plain")).keys() == plain.config.keys()


def test_every_other_setting_stays(make, out):
    config = {"task_type": "CAUSAL_LM", "bias": "none", "revision": None, "lora_dropout": 0.05}
    source = open_adapter(make(config=config))
    prune(source, [Q], out)
    assert config_of(out) == dict(source.config) | {"target_modules": sorted(NAMES[1:])}


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", ["q_proj", "v_proj", Q]])
def test_every_way_to_target_becomes_full_names(make, out, targets):
    prune(open_adapter(make(config={"target_modules": targets})), [Q, V], out)
    assert config_of(out)["target_modules"] == sorted(NAMES[2:])


def test_only_dead_patterns_are_left_out(make, out):
    modules = {name: factors(r=3 if "1.self" in name else 2) for name in NAMES}
    config = {
        "rank_pattern": {r".*\.1\.self_attn\.(q|v)_proj": 3, "layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"v_proj": 4, f"^{Q}": 5, "k_proj": 6},
    }
    source = open_adapter(make(modules, config))
    written = prune(source, [Q], out)
    assert config_of(out)["rank_pattern"] == {r".*\.1\.self_attn\.(q|v)_proj": 3}
    assert config_of(out)["alpha_pattern"] == {"v_proj": 4}
    for name in NAMES[1:]:
        assert np.array_equal(update(written, name), update(source, name))


def test_taking_nothing_out_writes_the_same_adapter(make, out):
    source = open_adapter(make(config={"exclude_modules": ["k_proj"]}))
    written = prune(source, [], out)
    assert raw(written) == raw(source)
    assert written.config == source.config


def test_magnitude_and_bias_of_a_dropped_module_go_with_it(make, out):
    extra = {
        f"{PREFIX}{name}.{part}": draw(8)
        for name in NAMES
        for part in ("lora_magnitude_vector", "lora_B.bias")
    }
    source = make(extra=extra, config={"use_dora": True, "lora_bias": True})
    written = prune(open_adapter(source), [Q], out)
    assert not [key for key in written.tensors.infos if Q in key]
    assert len([key for key in written.tensors.infos if V in key]) == 4


def test_weights_of_the_base_are_carried_over_and_lose_the_name_of_a_wrapper_that_is_gone(
    make, out
):
    extra = {
        f"{PREFIX}{Q}.base_layer.bias": draw(8),
        f"{PREFIX}{V}.base_layer.bias": draw(8, seed=1),
        f"{PREFIX}lm_head.weight": draw(4, 6),
    }
    source = open_adapter(make(extra=extra, config={"bias": "all"}))
    tensors = raw(prune(source, [Q], out))
    before = raw(source)
    assert tensors[f"{PREFIX}{Q}.bias"] == before[f"{PREFIX}{Q}.base_layer.bias"]
    assert f"{PREFIX}{Q}.base_layer.bias" not in tensors
    for key in (f"{PREFIX}{V}.base_layer.bias", f"{PREFIX}lm_head.weight"):
        assert tensors[key] == before[key]


def test_a_wrapper_that_stays_keeps_its_name_where_another_name_ends_alike(make, out):
    modules = ["block.q", "decoder.block.q"]
    extra = {f"{PREFIX}decoder.block.q.base_layer.bias": draw(8)}
    source = make(modules, {"target_modules": ["q"], "bias": "all"}, extra)
    written = prune(open_adapter(source), ["block.q"], out)
    assert f"{PREFIX}decoder.block.q.base_layer.bias" in written.tensors.infos


def test_a_name_that_cannot_be_told_from_one_that_stays_is_refused(make, out):
    source = open_adapter(make(["block.q", "decoder.block.q"], {"target_modules": ["q"]}))
    with pytest.raises(ParameterError, match=r"takes the name block\.q for it too") as caught:
        plan(source, ["decoder.block.q"])
    assert "zero-fill" in caught.value.hint
    written = prune(source, ["decoder.block.q"], out, target="zero-fill")
    assert not update(written, "decoder.block.q").any()


# --- zero-fill and experts -----------------------------------------------------------------------


def test_zero_fill_zeroes_b_and_touches_nothing_else(make, out):
    source = open_adapter(make(config={"exclude_modules": None}, dtype="BF16"))
    written = prune(source, [Q, V], out, target="zero-fill")
    before, after = raw(source), raw(written)
    zeroed = {f"{PREFIX}{name}.lora_B.weight" for name in (Q, V)}
    assert list(after) == list(before)
    assert {key for key in before if before[key] != after[key]} == zeroed
    for key in zeroed:
        assert after[key][:2] == before[key][:2]
        assert not any(after[key][2])
    assert written.config == source.config


def test_zero_fill_reaches_embeddings_and_convolutions(make, out):
    tensors = {
        f"{PREFIX}embed.lora_embedding_A": draw(2, 9),
        f"{PREFIX}embed.lora_embedding_B": draw(6, 2),
        f"{PREFIX}conv.lora_A.weight": draw(2, 3, 3, 3),
        f"{PREFIX}conv.lora_B.weight": draw(5, 2, 1, 1),
        **lora(Q, *factors()),
    }
    source = make(tensors, target_modules=["embed", "conv", "q_proj"], by=write_tensors)
    written = prune(open_adapter(source), ["embed", "conv"], out, target="zero-fill")
    assert not update(written, "embed").any()
    assert not update(written, "conv").any()
    assert update(written, Q).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_that_is_not_finite_is_zeroed_too_since_zero_times_nan_is_nan(make, out, bad):
    A, B = factors()
    A[1, 2] = bad
    source = open_adapter(make({Q: (A, B), V: factors(seed=1)}))
    written = prune(source, [Q], out, target="zero-fill")
    assert not written.read(Q).A.any()
    assert not written.read(Q).B.any()
    assert np.array_equal(update(written, V), update(source, V))


def experts(folder: Path, *, spoil: int | None = None, **config: Any) -> Path:
    """Two stacks of three experts of rank 2, and a linear module beside them."""
    A, B = draw(6, 5, seed=1), draw(8, 6, seed=2)
    if spoil is not None:
        A[2 * spoil] = np.nan
    tensors = {
        f"{PREFIX}{EXPERTS}.base_layer.lora_A.weight": A,
        f"{PREFIX}{EXPERTS}.base_layer.lora_B.weight": B,
        f"{PREFIX}{EXPERTS}.lora_A.weight": draw(6, 4, seed=3),
        f"{PREFIX}{EXPERTS}.lora_B.weight": draw(5, 6, seed=4),
        **lora(Q, *factors()),
    }
    stacks = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    fields = {"target_modules": ["q_proj"], "target_parameters": stacks} | config
    return write_tensors(folder, tensors, **fields)


@pytest.mark.parametrize("target", ["minimal", "fused-safe", "zero-fill"])
def test_one_expert_of_a_stack_zeroes_just_its_columns_of_b(make, out, target):
    source = open_adapter(make(by=experts))
    written = prune(source, [f"{EXPERTS}.gate_up_proj[1]"], out, target=target)
    key = f"{PREFIX}{EXPERTS}.base_layer.lora_B.weight"
    expected = source.tensors.read(key).copy()
    expected[:, 1::3] = 0
    assert np.array_equal(written.tensors.read(key), expected)
    before, after = raw(source), raw(written)
    assert [k for k in before if before[k] != after[k]] == [key]
    assert written.names == source.names
    assert written.config == source.config


def test_stacks_of_experts_stay_when_the_linear_modules_go(make, out):
    source = open_adapter(make(by=experts))
    written = prune(source, [Q, f"{EXPERTS}.down_proj[0]"], out)
    assert written.names == tuple(name for name in source.names if name != Q)
    assert written.config == dict(source.config) | {"target_modules": []}
    assert not update(written, f"{EXPERTS}.down_proj[0]").any()


def test_a_pattern_for_a_stack_is_not_dead(make, out):
    patterns = {"experts.down_proj": 3, "q_proj": 4}
    source = open_adapter(make(by=experts, alpha_pattern=patterns))
    written = prune(source, [Q], out)
    assert config_of(out)["alpha_pattern"] == {"experts.down_proj": 3}
    assert written.slots[f"{EXPERTS}.down_proj[0]"].scaling == 1.5


def test_a_of_an_expert_that_is_not_finite_is_zeroed_in_its_rows_only(make, out):
    source = open_adapter(make(by=experts, spoil=1))
    written = prune(source, [f"{EXPERTS}.gate_up_proj[1]"], out)
    key = f"{PREFIX}{EXPERTS}.base_layer.lora_A.weight"
    expected = source.tensors.read(key).copy()
    expected[2:4] = 0
    assert np.array_equal(written.tensors.read(key), expected)


def test_a_stack_that_is_broken_cannot_be_dropped(make, out):
    tensors = {f"{PREFIX}{EXPERTS}.lora_A.weight": draw(6, 5), **lora(Q, *factors())}
    config = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    source = open_adapter(make(tensors, **config, by=write_tensors))
    with pytest.raises(UnsupportedError, match="PEFT would still look for this stack"):
        plan(source, [f"{EXPERTS}.down_proj"])


SEPARATE = [f"{EXPERTS}.{e}.{leaf}" for e in range(2) for leaf in ("w1", "w2")]


def test_separate_experts_stay_with_b_zeroed_unless_all_of_them_go(make):
    config = {"target_modules": ["q_proj", "w1", "w2"]}
    source = open_adapter(make([*SEPARATE, Q], config))
    some = plan(source, [Q, *SEPARATE[:3]])
    assert some.edits == {Q: Drop()} | dict.fromkeys(SEPARATE[:3], Zero())
    assert some.notes == ("3 experts stay with B = 0: loaders that fuse experts want all or none",)
    assert plan(source, [Q, *SEPARATE[:3]], target="zero-fill").notes == ()
    assert set(plan(source, SEPARATE).edits.values()) == {Drop()}
    assert plan(source, [Q]).notes == ()


def test_separate_experts_that_cannot_be_zeroed_are_dropped_with_a_note(make):
    config = {"target_modules": ["q_proj", "w1", "w2"], "init_lora_weights": "pissa"}
    planned = plan(open_adapter(make([*SEPARATE, Q], config)), SEPARATE[:1])
    assert planned.edits == {SEPARATE[0]: Drop()}
    assert "want all experts or none" in planned.notes[0]


# --- fused-safe ----------------------------------------------------------------------------------

SUBSETS = [
    subset
    for count in range(1, 6)
    for subset in itertools.combinations(
        ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), count
    )
]


@pytest.mark.parametrize("gone", SUBSETS, ids="+".join)
def test_fused_safe_leaves_what_sglang_loads(make, out, gone):
    source = open_adapter(make(names_of(*ATTENTION, *MLP), {"target_modules": "all-linear"}))
    chosen = names_of(*gone)
    written = prune(source, chosen, out, target="fused-safe")
    stays = {name.rpartition(".")[2] for name in written.names}
    assert stays & {"q_proj", "k_proj", "v_proj"} in (
        set(),
        {"q_proj", "v_proj"},
        {"q_proj", "k_proj", "v_proj"},
    )
    assert stays & {"gate_proj", "up_proj"} in (set(), {"gate_proj"}, {"gate_proj", "up_proj"})
    assert {"o_proj", "down_proj"} <= stays
    if written.names != source.names:  # nothing dropped: nothing to say anew
        assert config_of(out)["target_modules"] == sorted(written.names)
    for name in written.names:
        expected = np.zeros_like(update(source, name)) if name in chosen else update(source, name)
        assert np.array_equal(update(written, name), expected)
        assert written.slots[name].rank == source.slots[name].rank


@pytest.mark.parametrize(
    ("gone", "filled"),
    [
        (("q_proj",), {"q_proj"}),
        (("k_proj",), set()),
        (("q_proj", "k_proj"), {"q_proj"}),
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (("q_proj", "k_proj", "v_proj"), set()),
        (("gate_proj",), {"gate_proj"}),
        (("up_proj",), set()),
        (("gate_proj", "up_proj", "o_proj"), set()),
    ],
)
def test_fused_safe_fills_no_more_than_it_must(make, gone, filled):
    source = open_adapter(make(names_of(*ATTENTION, *MLP), {"target_modules": "all-linear"}))
    edits = plan(source, names_of(*gone), target="fused-safe").edits
    zeroed = {name.rpartition(".")[2] for name, edit in edits.items() if edit == Zero()}
    assert zeroed == filled


def test_fused_safe_looks_at_each_layer_by_itself(make):
    source = open_adapter(make(names_of(*ATTENTION, layers=2), {"target_modules": "all-linear"}))
    first, second = names_of("q_proj", layers=2)
    all_of_second = [name for name in source.names if ".1." in name]
    edits = plan(source, [first, *all_of_second], target="fused-safe").edits
    assert edits[first] == Zero()
    assert edits[second] == Drop()


def test_fused_safe_says_what_it_cannot_fill(make):
    source = open_adapter(make(names_of("q_proj", "o_proj"), {"target_modules": "all-linear"}))
    notes = plan(source, names_of("o_proj"), target="fused-safe").notes
    assert notes == (
        f"SGLang will not load it: {names_of('v_proj')[0]} is missing beside the others of its "
        "group",
    )


@pytest.mark.parametrize("target", ["fused-safe", "zero-fill"])
@pytest.mark.parametrize("field", ["use_rslora", "rank_pattern", "alpha_pattern"])
def test_a_scale_that_the_target_ignores_is_told(make, target, field):
    value = {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 2}}
    source = open_adapter(make(config={field: value[field]}))
    assert field in plan(source, [Q], target=target).notes[0]
    assert plan(source, [Q], target=target, fold_scale=True).notes == ()
    assert plan(source, [Q]).notes == ()


# --- fold-scale ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r", "alpha", "folded"), [(4, 8, 16), (2, 6, 6 * 2**0.5), (16, 16, 64), (3, 3, 3 * 3**0.5)]
)
def test_uniform_rslora_is_folded_in_the_config_alone(make, out, r, alpha, folded):
    modules = {name: factors(r=r, seed=seed) for seed, name in enumerate(NAMES)}
    source = open_adapter(make(modules, {"r": r, "lora_alpha": alpha, "use_rslora": True}))
    written = prune(source, [Q], out, fold_scale=True)
    config = config_of(out)
    assert config == dict(source.config) | {
        "use_rslora": False,
        "lora_alpha": folded,
        "target_modules": sorted(NAMES[1:]),
    }
    assert type(config["lora_alpha"]) is type(folded)
    assert raw(written) == {key: t for key, t in raw(source).items() if Q not in key}
    for name in NAMES[1:]:
        assert np.allclose(update(written, name), update(source, name), rtol=1e-12)


def test_a_plain_adapter_has_nothing_to_fold(make, out):
    source = open_adapter(make())
    written = prune(source, [], out, fold_scale=True)
    assert raw(written) == raw(source)
    assert written.config == source.config


PATTERNS = [
    {"rank_pattern": {"q_proj": 5}},
    {"alpha_pattern": {"v_proj": 1.5}},
    {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 1}, "use_rslora": True},
]


@pytest.mark.parametrize("target", ["minimal", "zero-fill"])
@pytest.mark.parametrize("dtype", ["F64", "BF16"])
@pytest.mark.parametrize("config", PATTERNS, ids="+".join)
def test_patterns_are_folded_into_b_in_float32_at_one_rank(make, out, config, dtype, target):
    rank = 5 if "rank_pattern" in config else 2
    modules = {
        name: factors(r=rank if "q_proj" in name else 2, seed=seed)
        for seed, name in enumerate(NAMES)
    }
    source = open_adapter(make(modules, config, dtype=dtype))
    written = prune(source, [V], out, target=target, fold_scale=True)
    told = config_of(out)
    assert told["r"] == told["lora_alpha"] == rank
    assert told.keys() == source.config.keys()
    assert not any(told.get(field) for field in ("rank_pattern", "alpha_pattern", "use_rslora"))
    assert {dtype for dtype, _, _ in raw(written).values()} == {"F32"}
    assert {(slot.rank, slot.scaling) for slot in written.slots.values()} == {(rank, 1.0)}
    for name in written.names:
        expected = update(source, name) * (name != V)
        assert np.allclose(update(written, name), expected, rtol=1e-5, atol=1e-6)


def test_patterns_of_embeddings_and_convolutions_are_folded(make, out):
    tensors = {
        f"{PREFIX}embed.lora_embedding_A": draw(2, 9),
        f"{PREFIX}embed.lora_embedding_B": draw(6, 2),
        f"{PREFIX}conv.lora_A.weight": draw(3, 4, 3, 3),
        f"{PREFIX}conv.lora_B.weight": draw(5, 3, 1, 1),
        **lora(Q, *factors()),
    }
    config = {"target_modules": ["embed", "conv", "q_proj"], "rank_pattern": {"conv": 3}}
    source = open_adapter(make(tensors, **config, by=write_tensors))
    written = prune(source, [Q], out, fold_scale=True)
    for name in ("embed", "conv"):
        assert written.slots[name].rank == 3
        assert np.allclose(update(written, name), update(source, name), rtol=1e-5)


def test_patterns_that_match_only_what_goes_leave_nothing_to_fold(make, out):
    modules = {Q: factors(r=5), V: factors()}
    source = open_adapter(make(modules, {"rank_pattern": {"q_proj": 5}}))
    written = prune(source, [Q], out, fold_scale=True)
    assert raw(written) == {key: t for key, t in raw(source).items() if V in key}
    assert config_of(out)["r"] == 2


def test_payload_is_not_folded(make, out):
    extra = {f"{PREFIX}lm_head.weight": draw(4, 6).astype(CODES["BF16"])}
    source = open_adapter(make(extra=extra, config={"alpha_pattern": {"q_proj": 1}}))
    key = f"{PREFIX}lm_head.weight"
    assert raw(prune(source, [V], out, fold_scale=True))[key] == raw(source)[key]


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=["dora", "pissa"]
)
def test_scales_that_cannot_be_judged_are_not_folded(make, config):
    source = open_adapter(make(config={**config, "use_rslora": True}))
    with pytest.raises(UnsupportedError, match="cannot fold the scale of"):
        plan(source, [Q], fold_scale=True)


def test_patterns_of_stacked_experts_are_not_folded(make):
    source = open_adapter(make(by=experts, alpha_pattern={"q_proj": 3}))
    with pytest.raises(UnsupportedError, match="into stacked experts"):
        plan(source, [f"{EXPERTS}.down_proj[0]"], fold_scale=True)
    plan(source, [Q], fold_scale=True)  # the pattern goes with the only module it matches


def test_a_scale_that_leaves_float32_is_refused_and_nothing_is_written(make, out):
    A, B = factors()
    modules = {Q: (A, B.astype(np.float64) * 1e30), V: factors(seed=1)}
    source = open_adapter(make(modules, {"alpha_pattern": {"q_proj": 1e12}}, dtype="F64"))
    with pytest.raises(UnsupportedError, match="does not fit float32"):
        prune(source, [V], out, fold_scale=True)
    assert not out.exists()
    assert leftovers(out.parent) == []


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["minimal", "fused-safe", "zero-fill"])
def test_taking_everything_out_is_refused(make, out, target):
    with pytest.raises(ParameterError, match="no module would stay") as caught:
        prune(open_adapter(make()), NAMES, out, target=target)
    assert "base model" in caught.value.hint
    assert not out.exists()


@pytest.mark.parametrize(
    ("chosen", "target", "message"),
    [(["q_proj"], "minimal", "has no module 'q_proj'"), ([Q], "smallest", "no target 'smallest'")],
)
def test_an_unknown_name_or_target_is_refused(make, out, chosen, target, message):
    with pytest.raises(ParameterError, match=message):
        prune(open_adapter(make()), chosen, out, target=target)
    assert not out.exists()


def broken(folder: Path, rule: str) -> Path:
    """An adapter whose module V breaks a rule."""
    A, B = factors(seed=1)
    key = f"{PREFIX}{V}.lora_{{}}.weight"
    spoilt = {
        "untargeted-module": {key.format("A"): A, key.format("B"): B},
        "incomplete-module": {key.format("A"): A},
        "broken-tensor": {key.format("A"): A, key.format("B"): draw(0)},
        "shape-mismatch": {key.format("A"): draw(3, 6), key.format("B"): draw(8, 3)},
        "ambiguous-module": {
            key.format("A"): A,
            key.format("A.default"): A,
            key.format("B"): B,
        },
    }[rule]
    targets = ["q_proj"] if rule == "untargeted-module" else ["q_proj", "v_proj"]
    return write_tensors(folder, lora(Q, *factors()) | spoilt, target_modules=targets)


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_a_broken_module_may_not_stay_but_can_be_taken_out_by_name(make, out, rule):
    source = open_adapter(make(rule, by=broken))
    assert rule in {finding.rule for finding in source.findings}
    with pytest.raises(AdapterError, match=f"{V} would stay, but") as caught:
        prune(source, [], out)
    assert caught.value.hint == f"take it out first: --modules {V}"
    assert not out.exists()
    chosen = Named((V,))(scan(source))
    written = prune(source, chosen, out)
    assert written.names == (Q,)
    assert not [key for key in written.tensors.infos if V in key]
    assert not {finding.rule for finding in written.findings} & BROKEN


@pytest.mark.parametrize("target", ["zero-fill", "fused-safe"])
@pytest.mark.parametrize(
    "config",
    [{"use_dora": True}, {"init_lora_weights": "olora"}, {"init_lora_weights": "unheard-of"}],
    ids=["dora", "olora", "unknown"],
)
def test_b_zeroed_is_refused_where_it_would_not_take_the_effect_out(make, out, config, target):
    source = open_adapter(make(config=config))
    with pytest.raises(UnsupportedError, match=f"would not take the effect of {Q} out") as caught:
        prune(source, [Q], out, target=target)
    why = "DoRA" if "use_dora" in config else "loading it changes the base weights too"
    assert why in str(caught.value)
    assert "--target minimal" in caught.value.hint
    assert not out.exists()
    assert prune(source, [Q], out).names == NAMES[1:]


def test_stacked_experts_that_cannot_be_zeroed_cannot_be_taken_out(make, out):
    source = open_adapter(make(by=experts, init_lora_weights="pissa"))
    with pytest.raises(UnsupportedError) as caught:
        prune(source, [f"{EXPERTS}.down_proj[0]"], out)
    assert "minimal" not in caught.value.hint
    assert not out.exists()


def test_an_embedding_that_leaves_its_weights_behind_is_told(make):
    tensors = {
        f"{PREFIX}embed_tokens.lora_embedding_A": draw(2, 9),
        f"{PREFIX}embed_tokens.lora_embedding_B": draw(6, 2),
        f"{PREFIX}embed_tokens.base_layer.weight": draw(9, 6),
        **lora(Q, *factors()),
    }
    source = make(tensors, target_modules=["embed_tokens", "q_proj"], by=write_tensors)
    adapter = open_adapter(source)
    assert "embed_tokens.weight" in plan(adapter, ["embed_tokens"]).notes[0]
    assert plan(adapter, ["embed_tokens"], target="zero-fill").notes == ()
    assert plan(adapter, [Q]).notes == ()


# --- appears whole or not at all -----------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError, SystemExit])
@pytest.mark.parametrize("stage", ["write_adapter", "write_card", "write_manifest"])
def test_a_failure_on_the_way_leaves_nothing(make, tmp_path, monkeypatch, stage, error):
    real = getattr(prune_module, stage)

    def fails(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise error("stop")

    monkeypatch.setattr(prune_module, stage, fails)
    source = open_adapter(make())
    here = tmp_path / "here"
    here.mkdir()
    with pytest.raises(OutputError if error is OSError else error):
        prune(source, [Q], here / "new" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "here"}
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("error", [PermissionError, KeyboardInterrupt])
def test_a_failure_at_the_last_step_brings_the_old_folder_back(
    make, out, tmp_path, monkeypatch, error
):
    out.mkdir()
    (out / "mine").write_text("mine")
    rename = Path.rename

    def fails(self: Path, to: Path) -> Path:
        if self.name.endswith(".partial"):
            raise error("stop")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OutputError if error is PermissionError else error):
        prune(open_adapter(make()), [Q], out, force=True)
    assert hashes(out).keys() == {"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_out_that_appears_meanwhile_is_left_alone(make, out, tmp_path, monkeypatch, kind):
    real = prune_module.write_manifest

    def and_another(*args: Any) -> None:
        real(*args)
        if kind == "folder":
            out.mkdir()
        elif kind == "file":
            out.write_text("")
        else:
            out.symlink_to(tmp_path)

    monkeypatch.setattr(prune_module, "write_manifest", and_another)
    with pytest.raises(OutputError):
        prune(open_adapter(make()), [Q], out, force=kind != "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}
    assert out.is_symlink() == (kind == "link")
    assert out.is_file() == (kind == "file")
    assert out.is_symlink() or out.is_file() or list(out.iterdir()) == []


def test_a_result_that_is_not_the_plan_is_not_kept(make, out, monkeypatch):
    def writes_all(adapter: Adapter, edits: Any, folder: Path, *, fold_scale: bool) -> None:
        write_adapter(folder)

    monkeypatch.setattr(prune_module, "write_adapter", writes_all)
    source = open_adapter(make())
    with pytest.raises(OutputError, match=f"not what was planned: {Q}"):
        prune(source, [Q], out)
    with pytest.raises(OutputError, match=f"not what was planned: {Q}"):
        prune(source, [Q], out, target="zero-fill")
    assert not out.exists()
    assert leftovers(out.parent) == []


def test_a_result_that_its_own_config_does_not_target_is_not_kept(make, out, monkeypatch):
    def forgets(adapter: Adapter, edits: Any, folder: Path, *, fold_scale: bool) -> None:
        write_adapter(folder, NAMES[1:], {"target_modules": list(NAMES[1:3])})

    monkeypatch.setattr(prune_module, "write_adapter", forgets)
    with pytest.raises(OutputError, match=f"not what was planned: {NAMES[3]}"):
        prune(open_adapter(make(NAMES[1:])), [], out, fold_scale=True)


def test_a_file_that_others_read_differently_is_not_kept(make, out, monkeypatch):
    class Other:
        def __init__(self, path: Path, framework: str) -> None:
            assert path.name == WEIGHTS

        def __enter__(self) -> dict[str, None]:
            return {f"{PREFIX}{V}.lora_A.weight": None}

        def __exit__(self, *args: object) -> None:
            pass

    monkeypatch.setattr("s3lora.verify.safe_open", Other)
    with pytest.raises(OutputError, match="not what was planned"):
        prune(open_adapter(make()), [Q], out)
    assert not out.exists()


def test_bytes_that_changed_on_the_way_are_noticed(make, out, monkeypatch):
    def writes_others(adapter: Adapter, edits: Any, folder: Path, *, fold_scale: bool) -> None:
        write_adapter(folder, {name: factors(seed=9) for name in NAMES[1:]})

    monkeypatch.setattr(prune_module, "write_adapter", writes_others)
    with pytest.raises(OutputError, match="not what was planned"):
        prune(open_adapter(make()), [Q], out)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_an_existing_out_is_refused_and_left_alone(make, out, tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(elsewhere)
        if kind == "link":
            elsewhere.mkdir()
    source = open_adapter(make())
    before = sorted(tmp_path.iterdir())
    for force in (False, kind != "folder"):
        with pytest.raises(OutputError):
            prune(source, [Q], out, force=force)
    assert sorted(tmp_path.iterdir()) == before
    assert not elsewhere.exists() or list(elsewhere.iterdir()) == []
    assert not out.is_dir() or list(out.iterdir()) == []


def test_force_moves_the_old_folder_aside_under_a_free_name(make, out, tmp_path):
    source = open_adapter(make())
    (tmp_path / "out.old.2").write_text("mine")
    written = []
    for name in NAMES:
        prune(source, [name], out, force=True)
        written.append(hashes(out))
    places = ("out.old", "out.old.1", "out.old.3", "out")
    assert [hashes(tmp_path / place) for place in places] == written
    assert (tmp_path / "out.old.2").read_text() == "mine"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("force", [False, True])
def test_out_may_not_be_the_source_or_hold_it(make, tmp_path, monkeypatch, force):
    source = make()
    link = tmp_path / "link"
    link.symlink_to(source)
    monkeypatch.chdir(source)
    for ref in (source, source / WEIGHTS, link, link / WEIGHTS, Path()):
        adapter = open_adapter(ref)
        for out in (source, tmp_path, source / "x" / "..", Path("..") / "source"):
            with pytest.raises(OutputError):
                prune(adapter, [Q], out, force=force)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "link"}


def test_a_folder_of_links_is_a_source_too_and_is_not_moved_aside(make, tmp_path):
    # The hub's cache is like this: a snapshot of links into a folder of blobs.
    blobs, snapshot = make(), tmp_path / "snapshot"
    snapshot.mkdir()
    for name in (WEIGHTS, CONFIG):
        (snapshot / name).symlink_to(blobs / name)
    for ref in (snapshot, snapshot / WEIGHTS):
        for out in (snapshot, blobs):
            with pytest.raises(OutputError, match="holds the source"):
                prune(open_adapter(ref), [Q], out, force=True)
    assert prune(open_adapter(snapshot), [Q], tmp_path / "out").names == NAMES[1:]
    assert not (tmp_path / "out" / WEIGHTS).is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o640, 0o444])
def test_modes_are_those_of_the_umask_and_no_wider_than_the_source(make, tmp_path, umask, mode):
    source = make()
    source.chmod(0o755)
    (source / CONFIG).chmod(0o644)
    (source / WEIGHTS).chmod(mode)
    before = os.umask(umask)
    try:
        prune(open_adapter(source), [Q], tmp_path / "out")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    private = 0o666 & ~umask & (mode | 0o700)
    config = 0o666 & ~umask & 0o744
    assert found == {CONFIG: config, WEIGHTS: private, "README.md": private, "s3lora.json": private}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755 & ~umask


def test_a_folder_that_only_its_owner_sees_is_written_as_one(make, out):
    source = make()
    source.chmod(0o700)
    prune(open_adapter(source), [Q], out)
    assert out.stat().st_mode & 0o777 == 0o700


def test_what_is_being_written_is_seen_by_its_owner_alone(make, out, monkeypatch):
    real, seen = prune_module.write_manifest, []

    def looks(*args: Any) -> None:
        seen.extend(path.stat().st_mode & 0o777 for path in out.parent.glob(".*.partial"))
        real(*args)

    monkeypatch.setattr(prune_module, "write_manifest", looks)
    prune(open_adapter(make()), [Q], out)
    assert seen == [0o700]


def test_a_file_that_is_written_anew_keeps_its_mode(tmp_path):
    file = tmp_path / "report.json"
    write_file(file, "1")
    file.chmod(0o600)
    write_file(file, "2")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("2", 0o600)


def test_a_result_that_the_library_of_the_format_refuses_is_not_kept(make, out, monkeypatch):
    def refuses(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("invalid UTF-8")

    monkeypatch.setattr("s3lora.verify.safe_open", refuses)
    with pytest.raises(OutputError, match="invalid UTF-8"):
        prune(open_adapter(make()), [Q], out)
    assert not out.exists()
    assert leftovers(out.parent) == []


def test_a_parent_that_is_no_folder_is_an_error_of_ours(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        prune(open_adapter(make()), [Q], tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_may_not_be_written_is_an_error_of_ours(make, tmp_path):
    parent = tmp_path / "locked"
    parent.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="cannot write"):
        prune(open_adapter(make()), [Q], parent / "out")


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("name", ["", ".", "..", "inner/.."])
def test_a_path_without_a_name_is_refused(tmp_path, monkeypatch, name, replace):
    (tmp_path / "inner" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(OutputError), new_folder(Path(name), replace=replace):
        pytest.fail("the block must not run")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["inner", "inner/inner"]


def test_missing_parents_are_made(make, tmp_path):
    written = prune(open_adapter(make()), [Q], tmp_path / "a" / "b" / "out")
    assert written.names == NAMES[1:]


def test_a_system_that_cannot_flush_folders_still_gets_its_output(make, out, monkeypatch):
    sync = atomic._sync

    def only_files(path: Path) -> None:
        if path.is_dir():
            raise OSError("not for folders")
        sync(path)

    monkeypatch.setattr(atomic, "_sync", only_files)
    assert prune(open_adapter(make()), [Q], out).names == NAMES[1:]


def test_of_two_writers_one_wins_and_none_is_half(make, out, tmp_path, monkeypatch):
    both, real = threading.Barrier(2, timeout=30), prune_module.write_manifest
    results: list[object] = []

    def waits(*args: Any) -> None:
        real(*args)
        both.wait()

    def write(name: str) -> None:
        try:
            results.append(prune(open_adapter(source), [name], out).names)
        except OutputError as error:
            results.append(error)

    monkeypatch.setattr(prune_module, "write_manifest", waits)
    source = make()
    threads = [threading.Thread(target=write, args=(name,)) for name in (Q, V)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [result for result in results if isinstance(result, tuple)]
    assert len(won) == 1
    assert len(results) == 2
    assert open_adapter(out).names == won[0]
    manifest = json.loads((out / "s3lora.json").read_text())
    assert manifest["output"]["files"] == {
        k: v for k, v in hashes(out).items() if k != "s3lora.json"
    }
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}


# --- manifest ------------------------------------------------------------------------------------


def manifest_of(folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads((folder / "s3lora.json").read_text(), parse_constant=refuse)


def test_manifest_tells_what_was_done_and_by_which_scores(make, out):
    A, B = factors(seed=7)
    modules = {name: factors(seed=seed) for seed, name in enumerate(NAMES)}
    zero = "model.layers.2.self_attn.q_proj"
    source = open_adapter(make(modules | {zero: (A, 0 * B)}))
    table = scan(source, "magnitude")
    policy = TopK(2)
    prune(source, policy(table), out, target="fused-safe", table=table, policy=policy)
    told = manifest_of(out)
    assert told["schema"] == 1
    assert told["tool"]["name"] == "s3lora"
    assert told["versions"].keys() == {"python", "numpy", "safetensors", "ml_dtypes"}
    assert told["method"] == {"name": "magnitude", "params": dict(table.params)}
    assert told["policy"] == {"name": "top-k", "params": {"k": 2}}
    assert (told["target"], told["fold_scale"]) == ("fused-safe", False)
    assert told["scores"] == {score.module: score.value for score in table.scores}
    assert told["skipped"] == {zero: "zero update"}
    assert told["scores"].keys() | told["skipped"].keys() == set(source.names)
    assert sorted(told["dropped"] + told["zeroed"]) == sorted(policy(table))
    assert told["zeroed"] == [n for n in policy(table) if n in open_adapter(out).names]


@pytest.mark.parametrize("ref", ["folder", "file"])
@pytest.mark.parametrize("card", [False, True])
def test_manifest_has_the_hash_of_every_file_in_and_out(make, out, tmp_path, ref, card):
    folder = make()
    weights = folder / WEIGHTS
    if ref == "file":
        folder = tmp_path / "renamed"
        folder.mkdir()
        (folder / CONFIG).write_bytes((weights.parent / CONFIG).read_bytes())
        (folder / "mine.safetensors").write_bytes(weights.read_bytes())
        weights = folder / "mine.safetensors"
    if card and ref == "file":
        (folder / "README.md").write_text("# Mine\n")
    (folder / "notes.txt").touch() if ref == "file" else None
    source = open_adapter(weights if ref == "file" else folder)
    prune(source, [Q], out)
    told = manifest_of(out)
    read = {name: h for name, h in hashes(folder).items() if name != "notes.txt"}
    assert told["source"] == {"ref": source.ref, "files": read}
    assert told["output"]["files"] == output_hashes(out)
    assert hashes(out).keys() == {WEIGHTS, CONFIG, "README.md", "s3lora.json"}


def test_manifest_without_scores_says_so(make, out):
    prune(open_adapter(make()), [Q], out)
    told = manifest_of(out)
    assert (told["method"], told["policy"]) == (None, None)
    assert (told["scores"], told["skipped"]) == ({}, {})
    assert (told["dropped"], told["zeroed"]) == ([Q], [])


def test_manifest_holds_no_nan_where_the_adapter_does(make, out):
    A, B = factors()
    source = open_adapter(make({Q: (A * np.nan, B), V: factors(seed=1)}))
    table = scan(source)
    prune(source, [Q], out, table=table)
    assert manifest_of(out)["skipped"] == {Q: "holds NaN or Inf"}


def test_a_parameter_that_is_no_number_is_never_written(make, out):
    class Odd:
        name = "odd"
        params = {"limit": float("nan")}  # noqa: RUF012

        def __call__(self, table: ScoreTable) -> tuple[ModuleName, ...]:
            return (ModuleName(Q),)

    source = open_adapter(make())
    with pytest.raises(ValueError, match="not JSON compliant"):
        prune(source, [Q], out, table=scan(source), policy=Odd())
    assert not out.exists()


# --- model card ----------------------------------------------------------------------------------

FRONT = b"---\r\nbase_model: a/b  # two  spaces\ntags:\n- lora\n---\n"


def with_card(folder: Path, card: bytes) -> Path:
    write_adapter(folder)
    (folder / "README.md").write_bytes(card)
    return folder


@pytest.mark.parametrize(
    "card",
    [
        FRONT,
        FRONT + b"# Mine\n\nText.\n\n\n",
        FRONT + b"no newline at the end",
        b"\xef\xbb\xbf" + FRONT + "café, \N{EM DASH}, \N{CAT FACE}\n".encode(),
        b"no front matter\r\n",
        b"",
    ],
    ids=["front only", "text", "no newline", "marked", "no front", "empty"],
)
def test_the_card_is_kept_byte_for_byte_and_gets_a_section(make, out, card):
    source = open_adapter(make(card, by=with_card))
    prune(source, [Q], out, table=scan(source), policy=Named((Q,)))
    after = (out / "README.md").read_bytes()
    front = re.match(rb"(\xef\xbb\xbf)?(---\r?\n(.+\n)+?---\n)?", card)[0]
    assert after.startswith(front + b"\n## Pruned" if front else b"## Pruned")
    text = card[len(front) :]
    assert after.endswith(b"of this result.\n\n" + text if text.strip() else b"`s3lora.json`.\n")
    section = after[len(front) : len(after) - len(text)].decode()
    assert "1 of 4 LoRA modules were chosen by `s3lora`" in section
    assert "policy `modules` (names = " in section
    assert f"- `{Q}`: left out\n" in section
    assert "`minimal`" in section


WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", WIDE)
def test_a_card_in_wide_characters_is_not_mixed_with_a_section_in_utf_8(make, out, encoding):
    words = "# Kärte\n\nGrüße, 北京.\n"
    source = open_adapter(make((FRONT.decode() + words).encode(encoding), by=with_card))
    prune(source, [Q], out)
    after = (out / "README.md").read_bytes().decode("utf-8")
    assert after.startswith(FRONT.decode())
    assert after.endswith(words)
    assert after.count("## Pruned with s3lora") == 1
    assert "\0" not in after


@pytest.mark.parametrize(
    "card", [b"\xff\xfe\x00", b"\xff\xfe\x00\xd8", b"a\0\0\0\0", b"\x89PNG\0\x01"]
)
def test_a_card_that_is_no_text_is_not_carried_over(make, out, card):
    source = open_adapter(make(card, by=with_card))
    prune(source, [Q], out)
    after = (out / "README.md").read_bytes().decode("utf-8")
    assert after.startswith("---\n")
    assert "## Pruned with s3lora" in after
    assert "README.md of the source is not text, so it was not carried over" in after
    assert "\0" not in after


@pytest.mark.parametrize("tail", ["# café\n".encode("latin-1"), b"\xed\xa0\x80", b"\x81\x30"])
def test_bytes_of_another_encoding_do_not_make_the_card_a_file_of_two(make, out, tail):
    folder = make(FRONT + "é ".encode() + tail, by=with_card)
    prune(open_adapter(folder), [Q], out)
    after = (out / "README.md").read_bytes().decode("utf-8")
    assert after.startswith(FRONT.decode())
    assert "é " in after
    assert "\ufffd" in after
    assert manifest_of(out)["source"]["files"] == hashes(folder)


@pytest.mark.parametrize(
    "card",
    [
        "# m\n```\n",
        "# m\n<!-- ",
        "# m\n<details><summary>x</summary>\n\n<pre>",
        "<script>",
        "~~~~ x",
        "---\na: 1\n---\n<textarea>",
        "---\n<!--\n---\n-->",
        "---\n```\n---\n",
        "---\na: 1\nno end",
        "\n---\n<!--\n---\n",
        "> <!--\n",
    ],
)
def test_an_open_block_of_the_card_does_not_hide_the_section(make, out, card):
    prune(open_adapter(make(card.encode(), by=with_card)), [Q], out)
    text = (out / "README.md").read_text()
    front = "---\na: 1\n---\n" if card.startswith("---\na: 1\n---") else ""
    tokens = MarkdownIt("commonmark").parse(text.removeprefix(front))
    assert [token.type for token in tokens[:2]] == ["heading_open", "inline"]
    assert tokens[1].content == "Pruned with s3lora"
    assert text.endswith(card.removeprefix(front))


def test_figures_of_the_source_s_card_are_marked_as_those_of_the_source(make, out):
    prune(open_adapter(make(FRONT + b"valid plans 40 of 40\n", by=with_card)), [Q], out)
    text = (out / "README.md").read_text()
    mark = text.index("Its figures were measured on the source and say nothing of this result.")
    assert text.index("## Pruned") < mark < text.index("valid plans 40 of 40")


def test_what_is_odd_about_the_source_and_stays_is_named(make, out):
    head = {f"{PREFIX}score.weight": draw(4)}
    A, B = factors()
    source = make({Q: factors(), V: (A * np.nan, B), NAMES[2]: factors(seed=2)}, extra=head)
    done = CliRunner().invoke(cli, ["prune", str(source), "--modules", Q, "-o", str(out)])
    assert done.exit_code == 1
    kept = [line for line in done.stderr.splitlines() if line.startswith("kept, ")]
    assert len(kept) == 2
    assert any(f"base-weight-payload: {PREFIX}score.weight" in line for line in kept)
    assert any(f"non-finite: {V}" in line for line in kept)
    found = {(row["rule"], row["where"]) for row in manifest_of(out)["kept"]}
    assert found == {("base-weight-payload", f"{PREFIX}score.weight"), ("non-finite", V)}
    text = (out / "README.md").read_text()
    assert "### Kept from the source" in text
    assert f"- high: `{V}`: holds NaN or Inf `non-finite`" in text


def test_what_is_odd_about_what_leaves_is_not_said_to_be_kept(make, out):
    A, B = factors()
    source = open_adapter(make({Q: (A * np.nan, B), V: factors()}))
    (Path(source.ref) / "x.py").touch()
    prune(open_adapter(source.ref), [Q], out, table=scan(source))
    assert manifest_of(out)["kept"] == []
    assert "Kept from the source" not in (out / "README.md").read_text()
    (Path(source.ref) / "x.py").unlink()


@pytest.mark.parametrize("words", [["--threshold", "2"], ["--top-k", "0", "--fold-scale"]])
def test_where_nothing_changes_nothing_is_written(make, out, words):
    done = CliRunner().invoke(cli, ["prune", str(make()), *words, "-o", str(out)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "error: no module changes, so nothing was written" in done.stderr
    assert not out.exists()


def test_a_scale_that_is_folded_is_a_change(make, out):
    source = make(config={"use_rslora": True})
    words = ["prune", str(source), "--top-k", "0", "--fold-scale", "-o", str(out)]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert config_of(out)["use_rslora"] is False


def test_a_policy_that_did_not_choose_is_not_recorded(make, out):
    source = open_adapter(make())
    table = scan(source)
    (first,) = TopK(1)(table)
    other = next(name for name in source.names if name != first)
    with pytest.raises(ParameterError, match="chooses other modules"):
        prune(source, [other], out, table=table, policy=TopK(1))
    with pytest.raises(ParameterError, match="without the scores"):
        prune(source, [first], out, policy=TopK(1))
    assert not out.exists()
    prune(source, [first], out, table=table, policy=TopK(1))
    assert manifest_of(out)["policy"] == {"name": "top-k", "params": {"k": 1}}


def test_the_section_tells_what_stays_with_b_zeroed_and_every_note(make, out):
    source = open_adapter(make(config={"use_rslora": True}))
    planned = plan(source, [Q], target="zero-fill")
    prune(source, [Q], out, target="zero-fill")
    text = (out / "README.md").read_text()
    assert f"- `{Q}`: kept with B = 0\n" in text
    assert f"Note: {planned.notes[0]}.\n" in text


@pytest.mark.parametrize(
    ("base", "front"),
    [
        ("example/base", '---\nbase_model: "example/base"\nlibrary_name: peft\n---\n'),
        ('a: "b"\n#', '---\nbase_model: "a: \\"b\\"\\n#"\nlibrary_name: peft\n---\n'),
        (None, "---\nlibrary_name: peft\n---\n"),
    ],
)
def test_without_a_card_one_is_made_that_names_the_base(make, out, base, front):
    source = make(config={"base_model_name_or_path": base})
    prune(open_adapter(source), [Q], out)
    assert (out / "README.md").read_text().startswith(front + "\n## Pruned with s3lora\n")


def test_a_card_that_is_too_large_is_refused_and_nothing_is_written(make, out, monkeypatch):
    monkeypatch.setattr("s3lora.io.card_file.MAX_CARD", 100)
    source = open_adapter(make(b"x" * 101, by=with_card))
    with pytest.raises(AdapterError, match="101 bytes"):
        prune(source, [Q], out)
    assert not out.exists()


def test_a_name_in_a_hint_is_a_word_that_a_shell_takes_as_one(make, out):
    name = "model.layers.0.q;touch${IFS}pwned#"
    tensors = lora(Q, *factors()) | lora(name, draw(2, 6), np.zeros((8, 3)))
    source = make(tensors, target_modules=["q_proj", name], by=write_tensors)
    with pytest.raises(AdapterError) as caught:
        prune(open_adapter(source), [Q], out)
    assert shlex.split(caught.value.hint)[-1] == name


@pytest.mark.parametrize("target", ["private.txt", "/proc/self/environ", "../private.txt"])
@pytest.mark.parametrize("ref", ["folder", "file"])
def test_a_card_that_is_a_link_out_of_the_folder_is_never_copied(make, out, tmp_path, target, ref):
    (tmp_path / "private.txt").write_text("secret")
    folder = make()
    path = target if target.startswith(("/", "..")) else str(tmp_path / target)
    (folder / "README.md").symlink_to(path)
    source = open_adapter(folder if ref == "folder" else folder / WEIGHTS)
    with pytest.raises(AdapterError, match="outside the adapter's folder"):
        prune(source, [Q], out)
    assert not out.exists()
    (folder / "README.md").unlink()


def test_a_card_behind_two_links_and_a_linked_folder_is_followed_to_its_end(make, out, tmp_path):
    (tmp_path / "private.txt").write_text("secret")
    folder = make()
    (folder / "inner").symlink_to(tmp_path)
    (folder / "README.md").symlink_to("inner/private.txt")
    with pytest.raises(AdapterError, match="outside the adapter's folder"):
        prune(open_adapter(folder), [Q], out)
    for name in ("README.md", "inner"):
        (folder / name).unlink()


@pytest.mark.parametrize("below", [".", "checkpoint-1"])
def test_a_card_in_a_hub_cache_and_one_linked_within_the_folder_are_carried_over(
    make, tmp_path, below
):
    hub = tmp_path / "models--a--b"
    snapshot = hub / "snapshots" / "1234" / below
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    source = make()
    for at, name in enumerate((WEIGHTS, CONFIG, "README.md")):
        blob = hub / "blobs" / str(at)
        blob.write_bytes(b"# Mine\n" if name == "README.md" else (source / name).read_bytes())
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    prune(open_adapter(snapshot), [Q], tmp_path / "of-hub")
    assert "# Mine" in (tmp_path / "of-hub" / "README.md").read_text()
    (snapshot / "README.md").unlink()
    (snapshot / "CARD.md").write_text("# Other\n")
    (snapshot / "README.md").symlink_to("CARD.md")
    prune(open_adapter(snapshot), [Q], tmp_path / "of-folder")
    assert "# Other" in (tmp_path / "of-folder" / "README.md").read_text()


def test_blobs_that_are_themselves_a_link_are_not_those_of_a_cache(make, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").symlink_to(tmp_path / "private")
    source = make()
    for name in (WEIGHTS, CONFIG):
        (snapshot / name).write_bytes((source / name).read_bytes())
    (snapshot / "README.md").symlink_to("../../blobs/key")
    with pytest.raises(AdapterError, match="outside the adapter's folder"):
        prune(open_adapter(snapshot), [Q], tmp_path / "out")


def test_blobs_beside_any_folder_called_snapshots_are_not_those_of_a_cache(make, tmp_path):
    (tmp_path / "data" / "blobs").mkdir(parents=True)
    (tmp_path / "data" / "blobs" / "key").write_text("secret")
    folder = tmp_path / "data" / "snapshots" / "daily"
    folder.mkdir(parents=True)
    source = make()
    for name in (WEIGHTS, CONFIG):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "README.md").symlink_to("../../blobs/key")
    with pytest.raises(AdapterError, match="outside the adapter's folder"):
        prune(open_adapter(folder), [Q], tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_card_that_is_no_regular_file_is_refused(make, out, kind):
    card = make() / "README.md"
    os.mkfifo(card) if kind == "pipe" else card.mkdir()
    with pytest.raises(AdapterError, match="not a regular file"):
        prune(open_adapter(card.parent), [Q], out)
    card.unlink() if kind == "pipe" else card.rmdir()


def test_a_pruned_adapter_can_be_pruned_again(make, out, tmp_path):
    first = prune(open_adapter(make(FRONT + b"# Mine\n", by=with_card)), [Q], out)
    again = tmp_path / "again"
    second = prune(first, [V], again, target="zero-fill")
    assert second.names == NAMES[1:]
    assert not update(second, V).any()
    card = (again / "README.md").read_bytes()
    assert card.startswith(FRONT + b"\n## Pruned with s3lora\n")
    assert card.endswith(b"\n# Mine\n")
    assert card.count(b"## Pruned with s3lora") == 2
    told = manifest_of(again)
    assert told["source"]["files"] == output_hashes(out)
    assert (told["dropped"], told["zeroed"]) == ([], [V])
    assert [finding for finding in second.findings if finding.where == "s3lora.json"] == []


# --- command line --------------------------------------------------------------------------------


def run(*args: object) -> Any:
    return CliRunner().invoke(cli, ["prune", *map(str, args)])


def test_a_dry_run_prints_the_plan_and_writes_nothing(make, out, tmp_path):
    source = make(config={"use_rslora": True})
    result = run(source, "-o", out, "--modules", Q, "--target", "zero-fill", "--dry-run")
    assert result.exit_code == 0
    assert "Plan for the target zero-fill" in result.stdout
    assert Q in result.stdout
    assert "--fold-scale" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_dry_run_refuses_what_the_run_would_refuse(make):
    source = make(by=experts, alpha_pattern={"gate_up_proj": 3})
    name = f"{EXPERTS}.down_proj[0]"
    assert run(source, "--modules", name, "--fold-scale", "--dry-run").exit_code == 3


def test_an_existing_out_needs_force(make, out, tmp_path):
    source = make()
    assert run(source, "-o", out, "--modules", Q).exit_code == 0
    refused = run(source, "-o", out, "--modules", V)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert open_adapter(out).names == NAMES[1:]
    assert run(source, "-o", out, "--modules", V, "--force").exit_code == 0
    assert V not in open_adapter(out).names
    assert Q not in open_adapter(tmp_path / "out.old").names


@pytest.mark.parametrize("length", [300, 5000])
def test_a_name_that_is_too_long_is_an_error_and_no_traceback(make, tmp_path, length):
    with pytest.raises(OutputError):
        prune(open_adapter(make()), [Q], tmp_path / ("x" * length))
    with pytest.raises(OutputError):
        write_file(tmp_path / ("x" * length), "text")


# --- modules that share one target


def attention(folder: Path, **config: Any) -> Path:
    """Two `nn.MultiheadAttention`s as PEFT saves them, each with two pairs of factors."""
    tensors: dict[str, Any] = {}
    for at in range(2):
        tensors |= lora(f"blocks.{at}.attn", *factors(m=18, seed=at))
        tensors |= lora(f"blocks.{at}.attn.base_layer.out_proj", *factors(m=6, seed=9 + at))
    tensors[f"{PREFIX}blocks.0.attn.base_layer.out_proj.base_layer.bias"] = draw(6)
    return write_tensors(folder, tensors, **{"target_modules": ["attn"], "bias": "all"} | config)


def test_an_attention_has_its_two_projections_under_one_target_rank_and_scale(make):
    patterns = {"rank_pattern": {"out_proj": 5}, "alpha_pattern": {"0.attn": 1}}
    adapter = open_adapter(make(by=attention, **patterns))
    assert adapter.names == (
        "blocks.0.attn",
        "blocks.0.attn.out_proj",
        "blocks.1.attn",
        "blocks.1.attn.out_proj",
    )
    assert [slot.scaling for slot in adapter.slots.values()] == [0.5, 0.5, 3.0, 3.0]
    told = {(finding.rule, finding.severity) for finding in adapter.findings}
    assert told == {("dead-pattern", "low"), ("base-weight-payload", "low")}


def test_one_projection_of_an_attention_stays_with_b_zeroed_and_both_are_dropped(make, out):
    source = open_adapter(make(by=attention))
    gone = ["blocks.0.attn", "blocks.0.attn.out_proj", "blocks.1.attn.out_proj"]
    written = prune(source, gone, out)
    assert written.names == ("blocks.1.attn", "blocks.1.attn.out_proj")
    assert config_of(out)["target_modules"] == ["blocks.1.attn"]
    assert update(written, "blocks.1.attn").any()
    assert not update(written, "blocks.1.attn.out_proj").any()
    assert f"{PREFIX}blocks.0.attn.out_proj.bias" in written.tensors.infos


def test_one_projection_of_an_attention_cannot_have_a_rank_of_its_own(make):
    source = open_adapter(make(by=attention))
    with pytest.raises(UnsupportedError, match="PEFT has one for the whole attention"):
        plan(source, ["blocks.0.attn.out_proj"], edit=Truncate(energy=0.01))


def test_a_linear_module_that_is_called_as_a_parameter_is_dropped(make, out):
    dense = "model.layers.1.mlp.down_proj"
    tensors = lora(EXPERTS, draw(6, 5), draw(8, 6)) | lora(dense, *factors()) | lora(Q, *factors())
    config = {"target_modules": ["q_proj", "down_proj"], "target_parameters": ["down_proj"]}
    source = open_adapter(make(tensors, **config, by=write_tensors))
    written = prune(source, [dense, f"{EXPERTS}.down_proj[0]"], out)
    assert dense not in written.names
    assert not update(written, f"{EXPERTS}.down_proj[0]").any()
    assert config_of(out)["target_modules"] == [Q]


def test_weights_below_a_wrapper_that_the_new_names_do_not_make_lose_its_name(make, out):
    bias = "model.layers.0.self_attn.k_proj.base_layer.bias"
    config = {"bias": "all", "target_modules": ["q_proj", "k_proj", "v_proj"]}
    source = open_adapter(make([Q, V], config, extra={f"{PREFIX}{bias}": draw(8)}))
    assert f"{PREFIX}{bias.replace('.base_layer', '')}" in prune(source, [V], out).tensors.infos
