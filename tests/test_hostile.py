"""Files made to break the promises of SECURITY.md, each run through the real command line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import (
    ABSENT,
    CONFIG,
    NAMES,
    PREFIX,
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
    tensor_bytes,
    write_adapter,
    write_raw,
    write_tensors,
)
from s3lora import open_adapter, scan

SECONDS = 2.0
"""What a hostile file may take, in seconds of the process's own time.

Its own time, and not that of the clock: another process on the same machine must not fail a test.
"""
NOISE = 1.5
"""How many times longer the same work takes while the machine is busy with other things.

Alone, the worst of the files here takes 1.4 s, with the start of Python.
"""
CLOCK = 20.0
"""What a file may take by the clock on such a machine."""
START = 0.5
"""What starting Python and importing the command takes of them."""
MEGABYTES = 300

SERVER = """
import json, os, signal, sys, time
import s3lora.cli, s3lora.methods.s3lora, s3lora.report.json, s3lora.report.table
for line in sys.stdin:
    out, err, *words = json.loads(line)
    started = time.monotonic()
    child = os.fork()
    if not child:
        signal.alarm(60)
        for fd, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        sys.argv = ["s3lora", *words]
        s3lora.cli.main()
    _, status, used = os.wait4(child, 0)
    clock, seconds = time.monotonic() - started, used.ru_utime + used.ru_stime
    print(json.dumps([os.waitstatus_to_exitcode(status), clock, seconds, used.ru_maxrss / 1024]))
    sys.stdout.flush()
"""
"""Runs the command in a process for each line it reads, forked after the imports.

They take longer than most of the files here; `test_worst_file_from_a_cold_start` does without.
"""

MEASURE = """
import json, os, sys, time
started = time.monotonic()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
clock, seconds = time.monotonic() - started, used.ru_utime + used.ru_stime
told = [os.waitstatus_to_exitcode(status), clock, seconds, used.ru_maxrss / 1024]
os.write(int(os.environ["TELL"]), json.dumps(told).encode())
"""
"""Runs a command from a small process: a child's peak memory counts from that of its parent."""


@dataclass(frozen=True)
class Run:
    """What a command did."""

    status: int
    clock: float
    seconds: float
    megabytes: float
    stdout: str
    stderr: str


@pytest.fixture(scope="module", autouse=True)
def server():
    """The process that `run` asks; it is started once."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "80", "OPENBLAS_NUM_THREADS": "1"},
        text=True,
    ) as process:
        run.server = process
        yield
        process.stdin.close()


def run(*words: str | Path) -> Run:
    """Run the command line in a process of its own, within the bounds that hold for every file."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        run.server.stdin.write(json.dumps([*map(str, (out, err, *words))]) + "\n")
        run.server.stdin.flush()
        figures = json.loads(run.server.stdout.readline())
        result = Run(*figures, out.read_text("utf-8"), err.read_text("utf-8"))
    return checked(result, (SECONDS - START) * NOISE)


def run_cold(*words: str | Path, **environment: str) -> Run:
    """Run `python -m s3lora` as from a shell, within the bounds that hold for every file."""
    read, write = os.pipe()
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", MEASURE, sys.executable, "-m", "s3lora"]
        + [str(word) for word in words],
        capture_output=True,
        check=True,
        pass_fds=[write],
        env=os.environ | {"COLUMNS": "80", "TELL": str(write)} | environment,
        text=True,
        encoding="utf-8",
    )
    os.close(write)
    with os.fdopen(read) as file:
        return checked(Run(*json.load(file), told.stdout, told.stderr), SECONDS * NOISE)


def checked(result: Run, seconds: float) -> Run:
    """The run, if it kept within the bounds."""
    assert "Traceback" not in result.stderr
    assert result.seconds < seconds
    assert result.clock < CLOCK
    assert result.megabytes < MEGABYTES
    return result


def refused(*words: str | Path, message: str, status: int = 2) -> None:
    """Scan what must end in an error: two lines on stderr, nothing on stdout."""
    result = run("scan", *words)
    assert result.status == status
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("hint: ")


def found(*words: str | Path, status: int = 1) -> dict[str, set[tuple[str, str]]]:
    """Scan what must end in findings: (rule, severity) by what they are about."""
    result = run("scan", *words, "--format", "json")
    assert result.status == status
    assert result.stderr == ""
    told: dict[str, set[tuple[str, str]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        told.setdefault(finding["where"], set()).add((finding["rule"], finding["severity"]))
    return told


# --- weights that are no safetensors file, or one that breaks a rule

A, B = factors()
GOOD = tensor_bytes(lora(Q, A, B))
FIELDS = config_fields(target_modules=["q_proj"])


def entry(shape: object = (2, 6), offsets: object = (0, 48), dtype: object = "F32") -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(name: str, data: bytes = bytes(48), **changes: Any) -> bytes:
    return file_bytes({name: entry(**changes)}, data)


@cache
def million_empty_tensors() -> bytes:
    entries = (f'"{at}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for at in range(10**6))
    return file_bytes(("{" + ",".join(entries) + "}").encode())


def huge_header() -> bytes:
    return file_bytes(b'{"__metadata__":{"a":"' + b"a" * (64 * 2**20) + b'"}}')


@cache
def escaped_offsets() -> bytes:
    row = '"%d":{"dtype":"F32","shape":[0],"d\\u0061ta_offsets":[0,0]}'
    return file_bytes(("{" + ",".join(row % at for at in range(110_000)) + "}").encode())


BAD_WEIGHTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is cut off: 0 bytes"),
    "seven bytes": (lambda: bytes(7), "is cut off"),
    "half of the header": (lambda: GOOD[:60], "is cut off"),
    "half of the data": (lambda: GOOD[:-30], "is cut off"),
    "no header": (lambda: bytes(8), "is cut off: 8 bytes, without a header"),
    "a header of 2^63 bytes": (lambda: b"\xff" * 8 + b"{}", "is cut off"),
    "a header of 64 MB": (huge_header, "has a header of 671088"),
    "a million empty tensors": (million_empty_tensors, "has a header of"),
    "more tensors than are counted": (escaped_offsets, "lists more than 100000 tensors"),
    "a header of lists": (lambda: file_bytes(b'{"a":[' + b"[]," * 10**6 + b"1]}"), "more entries"),
    "a header nested deeply": (lambda: file_bytes(b'{"a":' * 10**5), "nested too deeply"),
    "a header that is a list": (lambda: file_bytes([]), "not a JSON object"),
    "a header of NaN": (lambda: file_bytes(b'{"a": NaN}'), "NaN"),
    "a name twice": (
        lambda: file_bytes(
            b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
            b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        ),
        "the key 'a' twice",
    ),
    "a field of an entry twice": (
        lambda: file_bytes(b'{"a":{"dtype":"F32","shape":[0],"shape":[0],"data_offsets":[0,0]}}'),
        "the key 'shape' twice",
    ),
    "an overlap": (
        lambda: file_bytes({"a": entry(), "b": entry(offsets=(24, 72))}, bytes(72)),
        "leave a hole or overlap",
    ),
    "two names for the same bytes": (
        lambda: file_bytes({"a": entry(), "b": entry()}, bytes(48)),
        "leave a hole or overlap",
    ),
    "a hole": (
        lambda: file_bytes({"a": entry(), "b": entry(offsets=(52, 100))}, bytes(100)),
        "leave a hole or overlap",
    ),
    "a hole in front": (lambda: one("a", bytes(52), offsets=(4, 52)), "leave a hole"),
    "bytes behind": (lambda: GOOD + b"more", "bytes that belong to no tensor"),
    "a shape that overflows": (lambda: one("a", shape=(2**62, 2**62, 4)), "does not take 48 bytes"),
    "a shape that wraps to its size": (lambda: one("a", shape=(2**62 + 3, 4)), "does not take"),
    "a dimension of 2^63": (lambda: one("a", shape=(2**63, 0)), "whole numbers"),
    "a dimension below zero": (lambda: one("a", shape=(-2, -6)), "whole numbers"),
    "a dimension that is half": (lambda: one("a", shape=(2.0, 6)), "whole numbers"),
    "a dimension that is true": (lambda: one("a", shape=(True, 12)), "whole numbers"),
    "a dimension of 4000 digits": (lambda: one("a", shape=(10**4000, 0)), "whole numbers"),
    "a hundred dimensions": (lambda: one("a", shape=(1,) * 100), "at most 8"),
    "offsets the wrong way round": (lambda: one("a", offsets=(48, 0)), "does not take -48 bytes"),
    "three offsets": (lambda: one("a", offsets=(0, 48, 48)), "two whole numbers"),
    "offsets below zero": (lambda: one("a", offsets=(-48, 0)), "two whole numbers"),
    "an unknown dtype": (lambda: one("a", dtype="F128"), "unknown dtype 'F128'"),
    "a dtype that is a list": (lambda: one("a", dtype=["F32"]), "unknown dtype"),
    "an unknown field": (lambda: file_bytes({"a": {**entry(), "x": 1}}, bytes(48)), "nothing else"),
    "an entry that is a word": (lambda: file_bytes({"a": "F32"}), "nothing else"),
    "metadata that is no text": (
        lambda: file_bytes({"__metadata__": {"a": {"b": 1}}, "a": entry()}, bytes(48)),
        "metadata",
    ),
    "a name of many parts": (lambda: one("1.a" * 100), "more than 24 dots and numbers"),
    "an empty name": (lambda: one(""), "the name is empty"),
    "a long name": (lambda: one("x" * 513), "the name is 513 characters long"),
    "a name of a megabyte": (lambda: one("x" * 2**20), "the name is 1048576 characters long"),
    "a name with a NUL": (lambda: one(f"{Q}\0.weight"), "control characters"),
    "a name with an escape sequence": (lambda: one("\x1b[2J\x1b]0;owned\x07"), "\\x1b"),
    "a name with a line break": (lambda: one("a\nerror: none"), "control characters"),
    "a name that turns text around": (lambda: one("a\u202egpj.thgiew"), "control characters"),
    "a name with an invisible space": (lambda: one(f"{Q}\u200b"), "control characters"),
    "a name of half a character": (lambda: one("a\ud800"), "control characters"),
    "a name with a space": (lambda: one("a b"), "control characters or spaces"),
    "a path upwards": (lambda: one("../../etc/passwd"), "looks like a path"),
    "an absolute path": (lambda: one("/etc/passwd"), "looks like a path"),
    "a path of Windows": (lambda: one("C:\\Windows"), "looks like a path"),
    "not one LoRA tensor": (lambda: one("a"), "holds no LoRA tensors"),
    "a zip of pickle": (lambda: b"PK\x03\x04" + bytes(200), "is a pickle or an archive"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_weights_are_refused(name, tmp_path):
    make, message = BAD_WEIGHTS[name]
    refused(write_raw(tmp_path, make(), FIELDS), message=message)


# --- configs

LONG = "x" * 15_000_000


def in_config(**changes: Any) -> bytes:
    return json.dumps(FIELDS | changes).encode()


def with_field(raw: bytes) -> bytes:
    """The config with one more field, given as its bytes."""
    return in_config()[:-1] + b", " + raw + b"}"


NAMES_100K = [f"n{at:06}" for at in range(100_000)]

BAD_CONFIGS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not valid JSON"),
    "half of it": (lambda: in_config()[:40], "not valid JSON"),
    "Latin-1": (lambda: in_config(base_model_name_or_path="e")[:-1] + b"\xe9}", "not valid JSON"),
    "20 MB": (lambda: in_config() + b" " * 20 * 2**20, "bytes, more than"),
    "a list": (lambda: b"[]", "not a JSON object"),
    "nested deeply": (lambda: with_field(b'"auto_mapping": ' + b"[" * 10**5), "nested too deeply"),
    "r nested deeply": (lambda: in_config(r=eval("[" * 80 + "]" * 80)), "nested too deeply"),
    "a million entries": (lambda: in_config(x=[0] * 10**6), "more entries"),
    "r twice": (lambda: with_field(b'"r": 64'), "the key 'r' twice"),
    "r twice, once by an escape": (lambda: with_field(b'"\\u0072": 64'), "the key 'r' twice"),
    "a pattern twice": (
        lambda: with_field(b'"rank_pattern": {"q": 1, "q": 2}'),
        "the key 'q' twice",
    ),
    "alpha is NaN": (lambda: in_config(lora_alpha=float("nan")), "NaN"),
    "alpha is Infinity": (lambda: in_config(lora_alpha=float("inf")), "Infinity"),
    "alpha is minus Infinity": (lambda: in_config(lora_alpha=float("-inf")), "-Infinity"),
    "alpha is 1e999": (
        lambda: json.dumps(FIELDS | {"lora_alpha": "!"}).replace('"!"', "1e999").encode(),
        "1e999",
    ),
    "dropout is 1e999": (lambda: with_field(b'"lora_dropout": 1e999'), "1e999"),
    "alpha is text": (lambda: in_config(lora_alpha="16"), "lora_alpha is '16'"),
    "alpha has 400 digits": (lambda: in_config(lora_alpha=10**400), "lora_alpha is"),
    "alpha is null": (lambda: in_config(lora_alpha=None), "lora_alpha is missing"),
    "r is null": (lambda: in_config(r=None), "r is missing"),
    "r is below zero": (lambda: in_config(r=-8), "r is '-8'"),
    "r is zero": (lambda: in_config(r=0), "r is '0'"),
    "r is true": (lambda: in_config(r=True), "r is 'True'"),
    "r is text": (lambda: in_config(r="2"), "r is '2'"),
    "r is a fraction": (lambda: in_config(r=2.0), "r is '2.0'"),
    "r has 400 digits": (lambda: in_config(r=10**400), "r is '1000"),
    "r has 5000 digits": (lambda: with_field(b'"x": 1' + b"0" * 5000), "more than 4300 digits"),
    "no type": (lambda: json.dumps(config_fields(peft_type=ABSENT)).encode(), "peft_type"),
    "catastrophic target_modules": (lambda: in_config(target_modules=r"(.*.*)*!"), "more than 1 s"),
    "catastrophic exclude_modules": (lambda: in_config(exclude_modules="(.+)+!"), "more than 1 s"),
    "catastrophic pattern key": (lambda: in_config(rank_pattern={"(.+)+!": 4}), "more than 1 s"),
    "slow together": (
        lambda: in_config(alpha_pattern={f"(.*){{6}}{at}!": 4 for at in range(3000)}),
        "more than 1 s",
    ),
    "an invalid expression": (lambda: in_config(target_modules="q_proj("), "not a regular expr"),
    "an invalid pattern key": (lambda: in_config(rank_pattern={"[": 4}), "not a regular expr"),
    "an expression of a megabyte": (lambda: in_config(target_modules="(" * 10**6), "a pattern of"),
    "a hundred thousand and one targets": (
        lambda: in_config(target_modules=["q_proj", *NAMES_100K]),
        "target_modules has 100001 entries",
    ),
    "a list of layers of 15 MB": (
        lambda: in_config(layers_to_transform=[0], layers_pattern=[LONG]),
        "layers_pattern is 'x",
    ),
    "a name of layers that is slow": (
        lambda: in_config(layers_to_transform=[0], layers_pattern=["a.*"]),
        "layers_pattern is 'a.*'",
    ),
    "a module to save of 15 MB": (lambda: in_config(modules_to_save=[LONG]), "modules_to_save is"),
    "modules to save of 5,600 lengths": (
        lambda: in_config(modules_to_save=["b" * length for length in range(1, 5601)]),
        "modules_to_save has 5600 entries, more than 1000",
    ),
    "a parameter of 15 MB": (lambda: in_config(target_parameters=[LONG]), "target_parameters is"),
    "a pattern key of 15 MB": (lambda: in_config(rank_pattern={LONG: 2}), "rank_pattern is"),
    "an escape sequence in a target": (lambda: in_config(target_modules=["\x1b[2J"]), "\\x1b"),
    "an escape sequence in the type": (lambda: in_config(init_lora_weights=["\x1b"]), "\\x1b"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config_is_refused(name, tmp_path):
    make, message = BAD_CONFIGS[name]
    folder = write_raw(tmp_path, tensor_bytes(lora(Q + "x" * 99, A, B) | lora(Q, A, B)), make())
    refused(folder, message=message)


def test_missing_config_is_no_scale_of_one(tmp_path):
    (write_raw(tmp_path, GOOD, FIELDS) / CONFIG).unlink()
    refused(tmp_path, message="is missing, so the scale of the update is unknown")
    refused(tmp_path / WEIGHTS, message="is missing, so the scale of the update is unknown")


WORST = {
    "a million empty tensors": lambda: (million_empty_tensors(), FIELDS),
    "more tensors than are counted": lambda: (escaped_offsets(), FIELDS),
    "a config of wide text": lambda: (GOOD, f'{{"a":"\U0001f600{LONG}"}}'.encode()),
    "a catastrophic expression": lambda: (GOOD, in_config(target_modules="(.+)+!")),
    "a base model's name of 15 MB": lambda: (GOOD, in_config(base_model_name_or_path=LONG)),
    "a hundred thousand targets": lambda: (GOOD, in_config(target_modules=NAMES_100K)),
}


@pytest.mark.parametrize("name", WORST)
def test_worst_file_from_a_cold_start(name, tmp_path):
    result = run_cold("scan", write_raw(tmp_path, *WORST[name]()))
    assert result.status in ((0,) if "15 MB" in name else (1, 2))


STRANGE_CONFIGS: dict[str, tuple[dict[str, Any], int, set[tuple[str, str]]]] = {
    "r of 20 million": ({"r": 20_000_000}, 1, {("shape-mismatch", "high")}),
    "r of 20 million by a pattern": (
        {"rank_pattern": {"q_proj": 20_000_000}},
        1,
        {("shape-mismatch", "high")},
    ),
    "a base model's name of 15 MB": ({"base_model_name_or_path": LONG}, 0, set()),
    "a base model that is a list": ({"base_model_name_or_path": ["\x1b"]}, 0, set()),
    "a start of 15 MB": (
        {"init_lora_weights": "pissa" + LONG},
        3,
        {("refused-setting", "low")},
    ),
    "a hundred thousand targets": (
        {"target_modules": ["q_proj", *NAMES_100K[1:]]},
        1,
        {("missing-module", "medium")},
    ),
    "a hundred thousand plain patterns of one length": (
        {"rank_pattern": dict.fromkeys([f"{at:06}".ljust(len(Q), "x") for at in range(10**5)], 4)},
        0,
        {("dead-pattern", "low")},
    ),
    "a thousand modules to save": (
        {"modules_to_save": NAMES_100K[:1000]},
        1,
        {("missing-module", "medium")},
    ),
    "a hundred thousand exclusions": ({"exclude_modules": NAMES_100K}, 0, set()),
    "a hundred thousand layers": ({"layers_to_transform": list(range(10**5))}, 0, set()),
    "a hundred thousand fields": (
        dict.fromkeys(NAMES_100K, 1),
        0,
        {("unknown-setting", "low")},
    ),
}


@pytest.mark.parametrize("name", STRANGE_CONFIGS)
def test_strange_config_is_bounded(name, tmp_path):
    changes, status, expected = STRANGE_CONFIGS[name]
    write_raw(tmp_path, GOOD, FIELDS | changes)
    result = run("scan", tmp_path, "--format", "json")
    assert result.status == status
    told = json.loads(result.stdout)["findings"]
    assert {(f["rule"], f["severity"]) for f in told} == expected


@pytest.mark.parametrize("name", [name for name in STRANGE_CONFIGS if "thousand" not in name])
def test_text_of_a_config_is_shown_in_part(name, tmp_path):
    changes, status, _ = STRANGE_CONFIGS[name]
    result = run("scan", write_raw(tmp_path, GOOD, FIELDS | changes))
    assert result.status == status
    assert len(result.stdout) < 5_000


@pytest.mark.parametrize("filler", [b"[],", b"{},", b'{"a":1},', b'"ab",'])
def test_result_of_many_values_is_bounded(filler, tmp_path):
    (tmp_path / "r.json").write_bytes(
        b'{"schema":1,"x":[' + filler * (2**25 // len(filler)) + b"1]}"
    )
    result = run("report", tmp_path / "r.json")
    assert result.status == 2
    assert "more memory" in result.stderr or "more entries" in result.stderr


def test_index_of_many_tensors_is_bounded(tmp_path):
    folder = write_adapter(tmp_path / "a")
    (tmp_path / "base").mkdir()
    names = ",".join(f'"{at}.{at}":"a"' for at in range(1_990_000))
    (tmp_path / "base/model.safetensors.index.json").write_text('{"weight_map":{' + names + "}}")
    result = run("scan", folder, "--base", tmp_path / "base")
    assert result.status == 2
    assert "more entries" in result.stderr


# --- what is in the place of a file


def test_path_that_is_nothing_is_refused(tmp_path):
    refused(tmp_path / "nothing", message="does not exist")
    refused(tmp_path, message="holds no adapter_model.safetensors")
    refused("x" * 5000, message="File name too long")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop" / "x", message="loop/x")
    result = run("prune", write_adapter(tmp_path / "a"), "--top-k", "1", "-o", tmp_path / "loop/x")
    assert result.status == 2


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_pipe_in_place_of_a_file_is_refused_at_once(name, tmp_path):
    (write_raw(tmp_path, GOOD, FIELDS) / name).unlink()
    os.mkfifo(tmp_path / name)
    refused(tmp_path, message=f"{name} is not a regular file")
    if name == WEIGHTS:
        refused(tmp_path / name, message="neither a folder nor a file")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_folder_in_place_of_a_file_is_refused(name, tmp_path):
    (write_raw(tmp_path, GOOD, FIELDS) / name).unlink()
    (tmp_path / name).mkdir()
    refused(tmp_path, message=f"{name} is not a regular file")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("target", ["/dev/zero", "nothing", WEIGHTS])
def test_link_to_a_device_or_to_nothing_is_refused(name, target, tmp_path):
    (write_raw(tmp_path, GOOD, FIELDS) / name).unlink()
    (tmp_path / name).symlink_to(target)
    if name == CONFIG and target == WEIGHTS:
        refused(tmp_path, message="adapter_config.json is not valid JSON")
    else:
        refused(tmp_path, message=name)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", WEIGHTS])
def test_pickle_is_never_unpickled(name, tmp_path):
    mark = tmp_path / "mark"
    folder = write_raw(tmp_path / "adapter", GOOD, FIELDS)
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / name, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(mark)))
    if name == WEIGHTS:
        refused(folder, message="is a pickle or an archive")
    else:
        refused(folder, message="reading a pickle can run code", status=3)
        refused(folder / name, message="reading a pickle can run code", status=3)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


def test_adapter_of_mlx_cannot_be_judged(tmp_path):
    (tmp_path / "adapters.safetensors").write_bytes(GOOD)
    refused(tmp_path, message="mlx-lm", status=3)


# --- payload, and tensors that contradict the config

HIGH, MEDIUM, LOW = "high", "medium", "low"
BASE = "base-weight-payload"

SMUGGLED: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "weight of a layer": (f"{PREFIX}model.layers.0.mlp.down_proj.weight", {}, (BASE, HIGH)),
    "weight below an adapted layer": (f"{PREFIX}{Q}.base_layer.weight", {}, (BASE, HIGH)),
    "weight of an adapted layer": (f"{PREFIX}{Q}.weight", {}, (BASE, HIGH)),
    "norm": (f"{PREFIX}model.norm.weight", {}, (BASE, HIGH)),
    "bias": (f"{PREFIX}{Q}.bias", {}, (BASE, HIGH)),
    "bias of the base layer": (f"{PREFIX}{Q}.base_layer.bias", {}, (BASE, HIGH)),
    "weight without the prefix": ("model.norm.weight", {}, (BASE, HIGH)),
    "weight that looks like a factor": (".lora_A.weight", {}, (BASE, HIGH)),
    "embedding": (f"{PREFIX}model.embed_tokens.weight", {}, (BASE, MEDIUM)),
    "head": (f"{PREFIX}lm_head.weight", {}, (BASE, MEDIUM)),
    "announced weight": (
        f"{PREFIX}model.norm.weight",
        {"modules_to_save": ["norm"]},
        (BASE, MEDIUM),
    ),
    "announced by the whole model": (
        f"{PREFIX}model.norm.weight",
        {"modules_to_save": ["model"]},
        (BASE, MEDIUM),
    ),
    "announced bias": (f"{PREFIX}{Q}.bias", {"bias": "all"}, (BASE, MEDIUM)),
    "announced tokens": (
        f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta",
        {"trainable_token_indices": [1, 2, 5, 7]},
        (BASE, LOW),
    ),
    "announced rows of no embedding": (
        f"{PREFIX}{Q}.token_adapter.trainable_tokens_delta",
        {"trainable_token_indices": {"q_proj": [1, 2, 5, 7]}},
        (BASE, MEDIUM),
    ),
    "tokens that nothing announces": (
        f"{PREFIX}model.embed.token_adapter.trainable_tokens_delta",
        {},
        ("unknown-tensor", MEDIUM),
    ),
    "buffer": (f"{PREFIX}model.rotary_emb.inv_freq", {}, ("unknown-tensor", MEDIUM)),
    "factor of LoHa": (f"{PREFIX}{Q}.hada_w1_a", {}, ("unknown-tensor", MEDIUM)),
    "factor without its leaf": (f"{PREFIX}{Q}.lora_A", {}, ("unknown-tensor", MEDIUM)),
    "third factor": (f"{PREFIX}{Q}.lora_C.weight", {}, ("unknown-tensor", MEDIUM)),
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_smuggled_tensor_is_told(name, tmp_path):
    key, config, finding = SMUGGLED[name]
    folder = write_adapter(tmp_path, [Q, V], config, extra={key: draw(4, 6)})
    assert found(folder, status=finding[1] != LOW)[key] == {finding}


def test_announced_payload_passes_where_only_high_findings_fail(tmp_path):
    extra = {f"{PREFIX}model.norm.weight": draw(6)}
    folder = write_adapter(tmp_path, config={"modules_to_save": ["norm"]}, extra=extra)
    assert run("scan", folder, "--fail-on", "high").status == 0
    assert run("scan", folder).status == 1


def test_factors_of_a_matrix_and_of_an_embedding_for_one_module_are_a_finding(tmp_path):
    extra = {f"{PREFIX}{V}.lora_embedding_A": A, f"{PREFIX}{V}.lora_embedding_B": B}
    told = found(write_adapter(tmp_path, [Q, V], extra=extra))
    assert told == {
        f"{PREFIX}{V}.lora_A.weight": {("unknown-tensor", MEDIUM)},
        f"{PREFIX}{V}.lora_B.weight": {("unknown-tensor", MEDIUM)},
        f"{PREFIX}{V}.lora_embedding_A": {("unusual-key", MEDIUM)},
    }


CONTRADICTIONS: dict[str, tuple[dict[str, Array], dict[str, Any], dict[str, tuple[str, str]]]] = {
    "a module that the config does not name": (
        lora(Q, A, B) | lora(V, A, B),
        {"target_modules": ["q_proj"]},
        {V: ("untargeted-module", HIGH)},
    ),
    "a module that the config excludes": (
        lora(Q, A, B) | lora(V, A, B),
        {"exclude_modules": ["v_proj"]},
        {V: ("untargeted-module", HIGH)},
    ),
    "a module of a layer that is not transformed": (
        lora(Q, A, B) | lora(NAMES[2], A, B),
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
        {NAMES[2]: ("untargeted-module", HIGH)},
    ),
    "a module that the file does not carry": (
        lora(Q, A, B),
        {"target_modules": ["q_proj", "k_proj"]},
        {"k_proj": ("missing-module", MEDIUM)},
    ),
    "an expression that finds nothing": (
        lora(Q, A, B),
        {"target_modules": "k_proj"},
        {Q: ("untargeted-module", HIGH), "k_proj": ("missing-module", MEDIUM)},
    ),
    "a config that names nothing": (
        lora(Q, A, B),
        {"target_modules": None},
        {"target_modules": ("unknown-setting", MEDIUM)},
    ),
    "A without B": (
        {f"{PREFIX}{Q}.lora_A.weight": A},
        {"target_modules": ["q_proj"]},
        {Q: ("incomplete-module", HIGH)},
    ),
    "B without A": (
        {f"{PREFIX}{Q}.lora_B.weight": B},
        {"target_modules": ["q_proj"]},
        {Q: ("incomplete-module", HIGH)},
    ),
    "A of another rank": (
        lora(Q, draw(3, 6), B),
        {"target_modules": ["q_proj"]},
        {Q: ("shape-mismatch", HIGH)},
    ),
    "two claims to one factor": (
        lora(Q, A, B) | {f"{PREFIX}{Q}.lora_A.default.weight": A},
        {"target_modules": ["q_proj"]},
        {
            Q: ("ambiguous-module", HIGH),
            f"{PREFIX}{Q}.lora_A.default.weight": ("unusual-key", LOW),
        },
    ),
    "an expert and a module of one name": (
        lora("m.experts", draw(4, 6), draw(8, 4)) | lora("m.experts.w[1]", A, B),
        {"target_modules": ["w[1]"], "target_parameters": ["experts.w"]},
        {"m.experts.w[1]": ("ambiguous-module", HIGH)},
    ),
    "NaN in A": (
        lora(Q, np.full_like(A, np.nan), B),
        {"target_modules": ["q_proj"]},
        {Q: ("non-finite", HIGH)},
    ),
    "Inf in B": (
        lora(Q, A, np.where(B[0, 0] == B, -np.inf, B).astype(np.float32)),
        {"target_modules": ["q_proj"]},
        {Q: ("non-finite", HIGH)},
    ),
    "NaN beside zeros": (
        lora(Q, np.full_like(A, np.nan), np.zeros_like(B)),
        {"target_modules": ["q_proj"]},
        {Q: ("non-finite", HIGH)},
    ),
    "an update that overflows": (
        lora(Q, A.astype(np.float64) * 1e200, B.astype(np.float64) * 1e200),
        {"target_modules": ["q_proj"]},
        {Q: ("non-finite", HIGH)},
    ),
    "B is zero everywhere": (
        lora(Q, A, np.zeros_like(B)),
        {"target_modules": ["q_proj"]},
        {"all modules": ("zero-update", MEDIUM)},
    ),
    "alpha is zero": (
        lora(Q, A, B),
        {"target_modules": ["q_proj"], "lora_alpha": 0},
        {"all modules": ("zero-update", MEDIUM)},
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradiction_is_at_least_medium(name, tmp_path):
    tensors, config, expected = CONTRADICTIONS[name]
    told = found(write_tensors(tmp_path, tensors, **config))
    assert told == {where: {finding} for where, finding in expected.items()}


def test_json_of_nan_and_inf_holds_neither(tmp_path):
    bad = {Q: (np.full_like(A, np.nan), B), V: (A, np.full_like(B, np.inf)), NAMES[2]: (A, B)}
    result = run("scan", write_adapter(tmp_path, bad), "--format", "json")
    report = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    assert [row["module"] for row in report["modules"]] == [NAMES[2]]
    assert [row["module"] for row in report["skipped"]] == [Q, V]


# --- many of something


def empties(*keys: str) -> bytes:
    return file_bytes(header_of(dict.fromkeys(keys, ("F32", (0, 4), 0))))


def test_many_claims_to_one_factor_are_one_finding(tmp_path):
    keys = [f"{PREFIX}{Q}.lora_A.x{at}.weight" for at in range(20_000)]
    told = found(write_raw(tmp_path, empties(*keys), FIELDS))
    assert told[Q] == {("ambiguous-module", HIGH)}


def test_list_of_findings_is_never_cut(tmp_path):
    keys = [f"{PREFIX}model.layers.{at}.norm.weight" for at in range(10_000)]
    write_raw(tmp_path, empties(*keys, f"{PREFIX}{Q}.lora_A.weight"), FIELDS)
    lines = run("scan", tmp_path, "-v").stdout.splitlines()
    assert [line.split()[-1] for line in lines if BASE in line] == keys


def test_stack_of_more_experts_than_any_model_has_is_refused(tmp_path):
    stack = lora("m.experts", np.zeros((200_000, 1), np.float32), np.zeros((1, 200_000), np.int8))
    write_tensors(tmp_path, stack, r=1, target_modules=[], target_parameters=["experts.w"])
    refused(tmp_path, message="stacks more than 100000 experts")


def hollow(folder: Path, *columns: int) -> Path:
    """An adapter of one module for each number of columns, of zeros that take no space on disk."""
    shapes: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for at, n in enumerate(columns):
        shapes[f"{PREFIX}{at}.q_proj.lora_A.weight"] = ("F32", (2, n), 8 * n)
        shapes[f"{PREFIX}{at}.q_proj.lora_B.weight"] = ("F32", (8, 2), 64)
    write_raw(folder, file_bytes(header_of(shapes)), FIELDS)
    size = sum(nbytes for *_, nbytes in shapes.values())
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + size)
    return folder


def test_memory_follows_the_largest_module_and_not_the_file(tmp_path):
    result = run("scan", hollow(tmp_path, *[2**20] * 16))
    assert result.status == 1
    assert "every update is zero" in result.stdout
    assert result.megabytes < 120 < (tmp_path / WEIGHTS).stat().st_size / 2**20


def test_factor_larger_than_any_model_needs_cannot_be_judged(tmp_path):
    adapter = open_adapter(hollow(tmp_path, 2**28, 4))
    (skipped,) = [row for row in scan(adapter).skipped if not row.judged]
    assert skipped.reason == "its factors hold 536870928 numbers, more than 83886080"


def test_file_larger_than_any_adapter_is_refused(tmp_path):
    refused(hollow(tmp_path, 2**38), message="bytes, more than 137438953472")


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    names = [f"model.layers.{at // 10}.self_attn.p{at % 10}" for at in range(1000)]
    pairs = {name: factors(seed=at) for at, name in enumerate(names)}
    config = {"target_modules": [f"p{at}" for at in range(10)]}
    return write_adapter(tmp_path_factory.mktemp("thousand"), pairs, config), names


def test_thousand_modules_parse_and_are_all_there(thousand):
    folder, names = thousand
    report = json.loads(run("scan", folder, "--format", "json", "--fraction", "1").stdout)
    assert [row["module"] for row in report["modules"]] == names
    assert report["chosen"] == names


def test_thousand_chosen_modules_are_all_in_the_table(thousand):
    folder, names = thousand
    lines = run("scan", folder, "--fraction", "1", "-m", "magnitude").stdout.splitlines()
    assert {line.split()[2] for line in lines if " * " in line[:10]} == set(names)


# --- what a terminal would act on

ESCAPES = "\x1b]0;owned\x07\x1b[31m\u202e\r\n\x9b2J"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_control_characters_are_escaped(encoding, form, tmp_path):
    folder = write_adapter(tmp_path, config={"base_model_name_or_path": ESCAPES, ESCAPES: 1})
    (folder / ("sibling" + ESCAPES)).touch()
    (folder / os.fsdecode(b"no-utf8-\xff\xfe")).touch()
    result = run_cold("scan", folder, "-v", "--format", form, PYTHONIOENCODING=encoding)
    assert result.status == 0
    assert "owned" in result.stdout
    assert not {c for c in result.stdout if not c.isprintable()} - {"\n"}
    if form == "table":
        assert "\\x1b]0;owned\\x07\\x1b[31m\\u202e\\r\\n\\x9b2J" in result.stdout.replace("\n", "")
        assert "no-utf8-\\udcff\\udcfe" in result.stdout


def test_path_of_the_user_is_escaped_in_errors(tmp_path):
    refused(tmp_path / ESCAPES, message="\\x1b]0;owned\\x07")


# --- nothing is followed


def test_nothing_is_imported_and_no_network_is_used_because_of_a_file(tmp_path):
    mark = tmp_path / "mark"
    folder = write_adapter(
        tmp_path / "adapter",
        config={
            "base_model_name_or_path": "https://example.invalid/model",
            "auto_mapping": {"base_model_class": "X", "parent_library": "evil"},
        },
    )
    for name in ("evil.py", "modeling.py", "sitecustomize.py", "setup.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ 1/0 }}", encoding="utf-8")
    code = (
        "import sys, socket, runpy\n"
        "def refuse(*_): raise SystemExit(77)\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "sys.argv = ['s3lora', 'scan', '.', '--format', 'json']\n"
        "runpy.run_module('s3lora', run_name='__main__')\n"
    )
    told = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True)
    assert told.returncode == 1, told.stderr
    report = json.loads(told.stdout)
    assert {(f["rule"], f["severity"]) for f in report["findings"]} == {
        ("imported-code", HIGH),
        ("unscanned-sibling", LOW),
    }
    assert {f["where"] for f in report["findings"]} == {
        "auto_mapping",
        "evil.py",
        "modeling.py",
        "sitecustomize.py",
        "setup.py",
        "chat_template.jinja",
    }
    assert not mark.exists()
