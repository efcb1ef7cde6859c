"""Base and aligned weights: how tensors are found, read exactly and lazily, and refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from adapters import CODES, Array, draw, factors, file_bytes, header_of, tensor_bytes, write_adapter
from models import gpt2, llama, save_adapter
from s3lora.adapter import ModuleName, Slot
from s3lora.cli import cli
from s3lora.errors import AdapterError, ParameterError, S3LoraError, UnsupportedError
from s3lora.io import open_adapter
from s3lora.io.checkpoint import INDEX, SINGLE, Checkpoint
from s3lora.scan import scan

Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.1.self_attn.v_proj"
ATTN = "h.0.attn.c_attn"


def write(folder: Path, tensors: dict[str, Array], config: object = None) -> Path:
    """A checkpoint folder of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SINGLE).write_bytes(tensor_bytes(tensors))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_shards(folder: Path, shards: dict[str, dict[str, Array]], index: object = None) -> Path:
    """A checkpoint folder of several files and their index, or another index."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in shards.items():
        (folder / file).write_bytes(tensor_bytes(tensors))
    placed = {name: file for file, tensors in shards.items() for name in tensors}
    raw = index if isinstance(index, bytes) else json.dumps(index or {"weight_map": placed})
    (folder / INDEX).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return folder


def slot(m: int = 8, n: int = 6, kind: str = "linear", **fields) -> Slot:
    return Slot((), kind, 2, (m, n), 1.0, **fields)


def matrix(folder: Path, name: str = Q, given: Slot | None = None) -> Array:
    return Checkpoint(folder).matrix(ModuleName(name), given or slot())


def refused(kind: type[S3LoraError], folder: Path, name: str = Q, given: Slot | None = None) -> str:
    """The message and the hint of a matrix that must not be read."""
    with pytest.raises(kind) as caught:
        matrix(folder, name, given)
    assert type(caught.value) is kind
    return f"{caught.value}\n{caught.value.hint}"


# --- one file, or shards


def test_a_matrix_of_a_single_file_is_read_in_float64(tmp_path):
    W = draw(8, 6)
    found = matrix(write(tmp_path, {"a.weight": draw(3, 3), f"{Q}.weight": W, "z": draw(2)}))
    assert found.dtype == np.float64
    assert np.array_equal(found, W)


def test_a_matrix_is_read_from_the_shard_that_the_index_names(tmp_path):
    W, other = draw(8, 6, seed=1), draw(8, 6, seed=2)
    shards = {
        "model-1.safetensors": {f"{Q}.weight": W},
        "model-2.safetensors": {f"{V}.weight": other},
    }
    folder = write_shards(tmp_path, shards)
    assert np.array_equal(matrix(folder, Q), W)
    assert np.array_equal(matrix(folder, V), other)


def test_a_shard_that_is_not_needed_is_never_opened(tmp_path):
    W = draw(8, 6)
    folder = write_shards(tmp_path, {"1.safetensors": {f"{Q}.weight": W}})
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {f"{Q}.weight": "1.safetensors", f"{V}.weight": "absent"}})
    )
    assert np.array_equal(matrix(folder, Q), W)
    assert "absent" in refused(AdapterError, folder, V)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/hostname", "a/../../x", "", "a\\b", "\n"]
)
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, file):
    (tmp_path / "x.safetensors").write_bytes(tensor_bytes({f"{Q}.weight": draw(8, 6)}))
    folder = write_shards(tmp_path / "model", {}, {"weight_map": {f"{Q}.weight": file}})
    with pytest.raises(AdapterError, match="index"):
        Checkpoint(folder)


BROKEN = {
    "no JSON": b"{",
    "a list": b"[]",
    "no map": b"{}",
    "a map of numbers": b'{"weight_map": {"a": 1}}',
    "a map that is a list": b'{"weight_map": ["a"]}',
    "one name twice": b'{"weight_map": {"a": "x", "a": "y"}}',
    "deep": b'{"weight_map": ' + b"[" * 500 + b"]" * 500 + b"}",
    "no UTF-8": b'{"weight_map": {"\xff": "x"}}',
    "an escape sequence": b'{"weight_map": {"\\u001b[2J": "x"}}',
    "a long name": json.dumps({"weight_map": {"a." * 5000: "x"}}).encode(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_index_is_refused(tmp_path, kind):
    folder = write_shards(tmp_path, {}, BROKEN[kind])
    with pytest.raises(AdapterError) as caught:
        Checkpoint(folder)
    assert INDEX in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_tensor_that_only_the_index_knows_is_named(tmp_path):
    placed = {"weight_map": {f"{Q}.weight": "1.safetensors"}}
    folder = write_shards(tmp_path, {"1.safetensors": {"other": draw(2)}}, placed)
    assert f"lacks {Q}.weight, which its index names" in refused(AdapterError, folder)


def test_links_are_followed(tmp_path):
    """The hub's cache is made of them."""
    W = draw(8, 6)
    blobs = write(tmp_path / "blobs", {f"{Q}.weight": W})
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / SINGLE).symlink_to(blobs / SINGLE)
    (tmp_path / "link").symlink_to(snapshot)
    assert np.array_equal(matrix(tmp_path / "link"), W)


@pytest.mark.parametrize(
    "path",
    ["absent", "", "a\0b", "x" * 5000, "file"],
    ids=["absent", "empty", "nul", "long", "file"],
)
def test_a_path_without_a_checkpoint_says_so(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("file").write_bytes(b"x")
    with pytest.raises(AdapterError) as caught:
        Checkpoint(path)
    assert "safetensors" in str(caught.value) + caught.value.hint


def test_a_checkpoint_of_pickles_is_not_one(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(AdapterError, match=r"neither model\.safetensors nor"):
        Checkpoint(tmp_path)


# --- names


@pytest.mark.parametrize(
    ("module", "key"),
    [
        (f"transformer.{ATTN}", f"{ATTN}.weight"),
        (ATTN, f"transformer.{ATTN}.weight"),
        (ATTN, f"{ATTN}.weight"),
        (f"base.model.{ATTN}", f"{ATTN}.weight"),
        (Q, Q),
        ("lm_head", "lm_head.weight"),
    ],
)
def test_a_prefix_may_be_on_one_side_only(tmp_path, module, key):
    W = draw(8, 6)
    folder = write(tmp_path, {key: W, f"a{ATTN}.weight": draw(8, 6, seed=5), "0.bias": draw(8)})
    assert np.array_equal(matrix(folder, module), W)


@pytest.mark.parametrize(
    ("module", "keys"),
    [
        (ATTN, [f"encoder.{ATTN}.weight", f"decoder.{ATTN}.weight"]),
        (f"a.b.{ATTN}", [f"b.{ATTN}.weight", f"{ATTN}.weight"]),
        (f"a.{ATTN}", [f"{ATTN}.weight", f"b.a.{ATTN}.weight"]),
    ],
)
def test_several_tensors_that_fit_are_refused_and_not_guessed(tmp_path, module, keys):
    folder = write(tmp_path, {key: draw(8, 6, seed=at) for at, key in enumerate(keys)})
    message = refused(ParameterError, folder, module)
    assert all(part in message for part in [f"{module} could be", *keys])


def test_the_exact_name_wins_over_others_that_fit(tmp_path):
    W = draw(8, 6)
    keys = (f"a.{ATTN}.weight", f"b.{ATTN}.weight", "attn.c_attn.weight")
    folder = write(tmp_path, {f"{ATTN}.weight": W} | {key: draw(8, 6, seed=9) for key in keys})
    assert np.array_equal(matrix(folder, ATTN), W)


def test_two_modules_that_claim_one_tensor_are_refused(tmp_path):
    names = ("encoder.layers.0.q_proj", "decoder.layers.0.q_proj")
    adapter = open_adapter(write_adapter(tmp_path / "adapter", names))
    checkpoint = Checkpoint(write(tmp_path / "model", {"layers.0.q_proj.weight": draw(8, 6)}))
    with pytest.raises(ParameterError, match=r"could be decoder\S+ or encoder"):
        checkpoint.check(adapter, "base")


def test_a_single_piece_of_a_name_is_no_match(tmp_path):
    """`weight` alone, or `q_proj` of nowhere, says nothing."""
    folder = write(tmp_path, {"weight": draw(8, 6), "x.q_proj": draw(8, 6)})
    assert f"has no tensor for {Q}" in refused(ParameterError, folder)


def test_many_names_are_matched_in_reasonable_time(tmp_path):
    """Looking through all names for each module would take minutes."""
    keys = {f"net.{at}.w1.weight": ("F32", (1, 0), 0) for at in range(20_000)}
    tmp_path.joinpath(SINGLE).write_bytes(file_bytes(header_of(keys)))
    checkpoint = Checkpoint(tmp_path)
    started = os.times().user
    found = [checkpoint._names.of(f"{at}.w1")[0] for at in range(20_000)]
    assert found[77] == "net.77.w1.weight"
    assert os.times().user - started < 3


# --- orientation


@pytest.mark.parametrize("n", [6, 8], ids=["oblong", "square"])
def test_gpt2_stores_its_matrices_transposed(tmp_path, n):
    W = draw(8, n)
    folder = write(tmp_path, {f"{ATTN}.weight": np.ascontiguousarray(W.T)})
    assert np.array_equal(matrix(folder, ATTN, slot(8, n, transposed=True)), W)


def test_a_transposed_matrix_without_fan_in_fan_out_is_refused(tmp_path):
    folder = write(tmp_path, {f"{Q}.weight": draw(6, 8)})
    assert "shape [8, 6], but" in refused(ParameterError, folder)


def test_a_matrix_that_is_not_transposed_is_read_even_with_fan_in_fan_out(tmp_path):
    """The setting is one for all modules; the head of GPT-2 is no Conv1D."""
    W = draw(8, 6)
    folder = write(tmp_path, {"lm_head.weight": W})
    assert np.array_equal(matrix(folder, "lm_head", slot(transposed=True)), W)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("d", [4, 9], ids=["oblong", "square"])
def test_an_embedding_is_never_transposed(tmp_path, transposed, d):
    W = draw(9, d)
    folder = write(tmp_path, {"wte.weight": W})
    given = slot(9, d, "embedding", transposed=transposed)
    assert np.array_equal(matrix(folder, "transformer.wte", given), W)


@pytest.mark.parametrize("kernel", [(3,), (3, 2), (1, 1)])
def test_a_kernel_is_flattened_as_its_update_is(tmp_path, kernel):
    W = draw(8, 5, *kernel)
    folder = write(tmp_path, {"conv.weight": W})
    found = matrix(folder, "conv", slot(8, 5 * int(np.prod(kernel)), "convolution"))
    assert np.array_equal(found, W.reshape(8, -1))


def expert(at: int, m: int, n: int, experts: int = 3, leaf: str = "gate_up_proj") -> Slot:
    return slot(m, n, "expert", expert=at, experts=experts, parameter=f"mlp.experts.{leaf}")


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("turned", [False, True])
def test_one_of_stacked_experts_is_read_in_either_orientation(tmp_path, at, turned):
    W = draw(3, 8, 6)
    stored = np.ascontiguousarray(W.transpose(0, 2, 1)) if turned else W
    folder = write(tmp_path, {"mlp.experts.gate_up_proj": stored, "z": draw(50)})
    name = f"mlp.experts.gate_up_proj[{at}]"
    assert np.array_equal(matrix(folder, name, expert(at, 8, 6)), W[at])


@pytest.mark.parametrize("turned", [False, True])
def test_square_experts_are_oriented_as_their_sibling(tmp_path, turned):
    W, sibling = draw(3, 6, 6), draw(3, 12, 6)
    if turned:
        W_stored, sibling = (np.ascontiguousarray(x.transpose(0, 2, 1)) for x in (W, sibling))
    else:
        W_stored = W
    tensors = {"mlp.experts.down_proj": W_stored, "mlp.experts.gate_up_proj": sibling}
    given = expert(1, 6, 6, leaf="down_proj")
    found = matrix(write(tmp_path, tensors), "mlp.experts.down_proj[1]", given)
    assert np.array_equal(found, W[1])


def test_another_number_of_experts_is_another_model(tmp_path):
    """The bytes behind the last expert are another tensor's."""
    folder = write(tmp_path, {"mlp.experts.gate_up_proj": draw(2, 8, 6), "z": draw(400)})
    name = "mlp.experts.gate_up_proj[2]"
    message = refused(ParameterError, folder, name, expert(2, 8, 6))
    assert "[8, 6], one of 3 experts" in message
    assert "[2, 8, 6]" in message


# --- types


@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
def test_every_float_is_read_exactly(tmp_path, code):
    W = (draw(8, 6) * 3).astype(CODES[code])
    W[0, 0] = ml_dtypes.finfo(CODES[code]).smallest_subnormal
    found = matrix(write(tmp_path, {f"{Q}.weight": W}))
    assert np.array_equal(found, W.astype(np.float64))
    assert found[0, 0] > 0


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    bits = np.random.default_rng(0).integers(0, 0x7F00, 48).astype("<u2")
    W = bits.view(ml_dtypes.bfloat16).reshape(8, 6)
    expected = (bits.astype("<u4") << 16).view("<f4").reshape(8, 6)
    assert np.array_equal(matrix(write(tmp_path, {f"{Q}.weight": W})), expected)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "fp8"])
def test_a_checkpoint_that_says_it_is_quantised_is_refused(tmp_path, method):
    config = {"quantization_config": {"quant_method": method}}
    folder = write(tmp_path, {f"{Q}.weight": draw(8, 6)}, config)
    message = refused(UnsupportedError, folder)
    assert "is quantised" in message
    assert "before it was quantised" in message


@pytest.mark.parametrize("code", ["U8", "I8", "I32", "F4", "F8_E8M0"])
@pytest.mark.parametrize("shape", [(8, 6), (24, 1)], ids=["as the module", "packed"])
def test_codes_are_no_weights(tmp_path, code, shape):
    """Whatever their shape: the answer is not that the model is another one."""
    bits = {"I32": 32, "F4": 4}.get(code, 8)
    nbytes = shape[0] * shape[1] * bits // 8
    header = header_of({f"{Q}.weight": (code, shape, nbytes)})
    (tmp_path / SINGLE).write_bytes(file_bytes(header, bytes(nbytes)))
    assert f"is stored as {code}" in refused(UnsupportedError, tmp_path)


@pytest.mark.parametrize("tail", ["_scale", "_scale_inv", ".absmax"])
def test_floats_that_are_still_to_be_scaled_are_no_weights(tmp_path, tail):
    W = draw(8, 6).astype(CODES["F8_E4M3"])
    folder = write(tmp_path, {f"{Q}.weight": W, f"{Q}.weight{tail}": draw(1, 1)})
    assert f"scaled by {Q}.weight{tail}" in refused(UnsupportedError, folder)


# --- what an adapter is held against


def test_the_wrong_model_is_told_by_the_first_name_and_both_shapes(tmp_path):
    adapter = open_adapter(write_adapter(tmp_path / "adapter", [Q, V]))
    tensors = {f"{Q}.weight": draw(8, 6), f"{V}.weight": draw(4, 6)}
    with pytest.raises(ParameterError) as caught:
        scan(adapter, "magnitude", aligned=Checkpoint(write(tmp_path / "model", tensors)))
    assert all(part in str(caught.value) for part in ("aligned", V, "[8, 6]", "[4, 6]"))
    assert Q not in str(caught.value)
    assert "trained on" in caught.value.hint


def test_a_missing_tensor_is_told_by_the_first_name(tmp_path):
    adapter = open_adapter(write_adapter(tmp_path / "adapter", [Q, V]))
    folder = write(tmp_path / "model", {f"{V}.weight": draw(8, 6), f"{Q}.bias": draw(8)})
    with pytest.raises(ParameterError, match=f"has no tensor for {re.escape(Q)}"):
        scan(adapter, "magnitude", base=Checkpoint(folder))


def test_shapes_are_held_against_all_modules_before_a_matrix_is_read(tmp_path, monkeypatch):
    adapter = open_adapter(write_adapter(tmp_path / "adapter", [Q, V]))
    checkpoint = Checkpoint(write(tmp_path / "model", {f"{Q}.weight": draw(8, 6)}))
    monkeypatch.setattr(Checkpoint, "matrix", lambda *_: pytest.fail("a matrix was read"))
    with pytest.raises(ParameterError, match=re.escape(V)):
        scan(adapter, "intruder", base=checkpoint)


def test_weights_that_are_not_finite_leave_the_module_without_a_score(tmp_path):
    adapter = open_adapter(write_adapter(tmp_path / "adapter", [Q, V]))
    bad = draw(8, 6)
    bad[2, 3] = np.nan
    checkpoint = Checkpoint(
        write(tmp_path / "model", {f"{Q}.weight": bad, f"{V}.weight": draw(8, 6)})
    )
    table = scan(adapter, "intruder", base=checkpoint)
    assert [row.reason for row in table.skipped] == [
        "the base weights of the module hold NaN or Inf"
    ]
    assert [score.module for score in table.scores] == [V]
    assert table.findings == ()  # nothing is wrong with the adapter


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("good", 0, ""),
        ("wrong model", 2, "[8, 6]"),
        ("broken", 2, "cut off"),
        ("absent", 2, "holds neither"),
        ("quantised", 3, "before it was quantised"),
        ("codes", 3, "stored as I8"),
    ],
)
def test_the_command_ends_in_its_status_and_a_message(tmp_path, kind, status, told):
    names = [Q, "model.layers.0.self_attn.v_proj"]
    adapter = write_adapter(tmp_path / "adapter", names)
    tensors = {f"{name}.weight": draw(8, 6, seed=at) for at, name in enumerate(names)}
    if kind == "wrong model":
        tensors[f"{Q}.weight"] = draw(8, 7)
    if kind == "codes":
        tensors[f"{Q}.weight"] = np.ones((8, 6), np.int8)
    config = {"quantization_config": {"bits": 4}} if kind == "quantised" else None
    folder = write(tmp_path / "model", tensors, config)
    if kind == "broken":
        (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1])
    if kind == "absent":
        (folder / SINGLE).unlink()
    words = ["scan", str(adapter), "-m", "intruder", "--base", str(folder)]
    result = CliRunner().invoke(cli, words, env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    assert told in result.stderr
    assert bool(result.stdout) == (status == 0)


# --- laziness


def test_nothing_but_the_matrix_asked_for_is_read(tmp_path, monkeypatch):
    names = [f"model.layers.{at}.q_proj" for at in range(20)]
    tensors = {f"{name}.weight": draw(64, 64) for name in names}
    tensors["model.embed_tokens.weight"] = draw(4096, 64)
    folder = write(tmp_path, tensors)
    read = {"bytes": 0}
    for function in ("pread", "preadv"):
        monkeypatch.setattr(os, function, counting(getattr(os, function), read))
    checkpoint = Checkpoint(folder)
    header = int.from_bytes((folder / SINGLE).read_bytes()[:8], "little") + 8
    assert read["bytes"] == header
    checkpoint.matrix(ModuleName(names[7]), slot(64, 64))
    assert read["bytes"] == header + 64 * 64 * 4


def test_of_stacked_experts_only_one_is_read(tmp_path, monkeypatch):
    folder = write(tmp_path, {"mlp.experts.gate_up_proj": draw(16, 32, 8)})
    checkpoint = Checkpoint(folder)
    read = {"bytes": 0}
    monkeypatch.setattr(os, "preadv", counting(os.preadv, read))
    checkpoint.matrix(ModuleName("mlp.experts.gate_up_proj[3]"), expert(3, 32, 8, 16))
    assert read["bytes"] == 32 * 8 * 4


def counting(function, read):
    """A reading function that counts its bytes."""

    def counted(*given):
        got = function(*given)
        read["bytes"] += got if isinstance(got, int) else len(got)
        return got

    return counted


def test_a_scan_holds_few_matrices_at_a_time(tmp_path, monkeypatch):
    """Three of one module and what the method works with, not the sixteen of the model."""
    import importlib
    import tracemalloc

    # a block that is freed untouched, so that it takes no memory, but is traced
    monkeypatch.setattr(importlib.import_module("s3lora.scan"), "_keep_freed_memory", lambda: None)
    names = [f"model.layers.{at}.q_proj" for at in range(16)]
    size = 256 * 256 * 8
    adapter = open_adapter(
        write_adapter(
            tmp_path / "adapter", {n: factors(256, 256, seed=i) for i, n in enumerate(names)}
        )
    )
    folders = [
        write(
            tmp_path / role,
            {f"{n}.weight": draw(256, 256, seed=s + i) for i, n in enumerate(names)},
        )
        for role, s in (("base", 100), ("aligned", 200))
    ]
    base, aligned = map(Checkpoint, folders)
    scan(adapter, "safe-lora", base=base, aligned=aligned)
    tracemalloc.start()
    scan(adapter, "safe-lora", base=base, aligned=aligned)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * size


# --- hostile files

HOSTILE = {
    "empty": b"",
    "cut off": tensor_bytes({f"{Q}.weight": draw(8, 6)})[:-1],
    "a huge header": (2**62).to_bytes(8, "little") + b"{}",
    "no JSON": file_bytes(b"{", b""),
    "a hole": file_bytes(
        {f"{Q}.weight": {"dtype": "F32", "shape": [8, 6], "data_offsets": [8, 200]}}, bytes(200)
    ),
    "a path for a name": tensor_bytes({"../../x": draw(2)}),
    "a huge shape": file_bytes(
        {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("sharded", [False, True])
def test_a_hostile_file_ends_in_an_error_of_ours(tmp_path, kind, sharded):
    if sharded:
        write_shards(tmp_path, {}, {"weight_map": {f"{Q}.weight": "1.safetensors"}})
    (tmp_path / ("1.safetensors" if sharded else SINGLE)).write_bytes(HOSTILE[kind])
    refused(AdapterError, tmp_path)


@pytest.mark.parametrize("file", [SINGLE, INDEX, "config.json"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, file):
    if file == "config.json":
        write(tmp_path, {f"{Q}.weight": draw(8, 6)})
    os.mkfifo(tmp_path / file)
    assert "regular file" in refused(AdapterError, tmp_path)


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"a": NaN}', b"\xff"])
def test_a_broken_config_is_refused(tmp_path, config):
    write(tmp_path, {f"{Q}.weight": draw(8, 6)})
    (tmp_path / "config.json").write_bytes(config)
    assert "config.json" in refused(AdapterError, tmp_path)


@pytest.mark.parametrize("shape", [(), (48,), (0, 6), (8, 0), (8, 6, 1, 2)])
def test_a_tensor_that_is_no_such_matrix_is_refused(tmp_path, shape):
    folder = write(tmp_path, {f"{Q}.weight": np.zeros(shape, np.float32)})
    assert f"has shape {list(shape)}" in refused(ParameterError, folder)


# --- what transformers writes


def test_a_sharded_llama_of_transformers_gives_every_matrix(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path / "model", max_shard_size="8KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    adapter = open_adapter(
        save_adapter(tmp_path / "adapter", llama, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    assert_every_matrix(model, adapter, Checkpoint(tmp_path / "model"))


def test_a_gpt2_of_transformers_gives_every_matrix(tmp_path):
    """`c_proj` of the attention is square, so only the config tells that it is transposed."""
    model = gpt2()
    model.save_pretrained(tmp_path / "model")
    adapter = open_adapter(
        save_adapter(
            tmp_path / "adapter", gpt2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
        )
    )
    assert (16, 16) in {given.shape for given in adapter.slots.values()}
    checkpoint = Checkpoint(tmp_path / "model")
    checkpoint.check(adapter, "base")
    for name, given in adapter.slots.items():
        expected = model.get_submodule(name).weight.detach().numpy().T
        assert np.array_equal(checkpoint.matrix(name, given), expected)


def test_a_bfloat16_llama_of_transformers_is_read_exactly(tmp_path):
    model = llama().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    adapter = open_adapter(save_adapter(tmp_path / "adapter", llama, target_modules=["k_proj"]))
    assert_every_matrix(model, adapter, Checkpoint(tmp_path / "model"))


def assert_every_matrix(model, adapter, checkpoint):
    checkpoint.check(adapter, "base")
    for name, given in adapter.slots.items():
        expected = model.get_submodule(name).weight.detach().double().numpy()
        assert np.array_equal(checkpoint.matrix(name, given), expected)


def test_a_head_that_is_tied_to_the_embedding_has_its_weights(tmp_path):
    model = gpt2()
    model.save_pretrained(tmp_path / "model")
    adapter = open_adapter(save_adapter(tmp_path / "adapter", gpt2, target_modules=["lm_head"]))
    assert_every_matrix(model, adapter, Checkpoint(tmp_path / "model"))
    assert len(scan(adapter, "intruder", base=Checkpoint(tmp_path / "model")).scores) == 1


def test_a_missing_head_of_an_untied_model_is_another_model(tmp_path):
    folder = write(
        tmp_path, {"model.embed_tokens.weight": draw(9, 6)}, {"tie_word_embeddings": False}
    )
    assert "trained on" in refused(ParameterError, folder, "lm_head", slot(9, 6))


def test_the_matrices_of_a_checkpoint_are_listed_with_their_shapes(tmp_path):
    tensors = {f"{Q}.weight": draw(8, 6), "norm.weight": draw(6), "x.y": draw(2, 2)}
    checkpoint = Checkpoint(write(tmp_path / "m", tensors))
    assert checkpoint.matrices() == {Q: (8, 6)}
    assert np.array_equal(checkpoint.plain(Q), tensors[f"{Q}.weight"])
    with pytest.raises(ParameterError, match="has no matrix nothing"):
        checkpoint.plain("nothing")


@pytest.mark.parametrize(
    ("config", "name"),
    [(None, "m"), ({"_name_or_path": "a/b"}, "a/b"), ({"_name_or_path": 3}, "m")],
)
def test_a_checkpoint_has_a_name(tmp_path, config, name):
    assert Checkpoint(write(tmp_path / "m", {"x.weight": draw(2, 2)}, config)).name == name
