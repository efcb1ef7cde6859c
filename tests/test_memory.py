"""Memory that a scan may use, and numbers at the ends of float64: bounded, finite, or refused."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import subprocess
import sys
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adapters import (
    CONFIG,
    WEIGHTS,
    Q,
    config_fields,
    draw,
    factors,
    file_bytes,
    header_of,
    lora,
    write_adapter,
)
from s3lora import open_adapter, scan
from s3lora.cli import cli
from s3lora.errors import UnsupportedError
from s3lora.io.peft import MAX_NUMBERS, MAX_SIDE, MAX_STACK
from s3lora.linalg import BLOCK, row_blocks, singular_values, thin_svd
from s3lora.mas_svd import MAX_FORMED, formed, mas_svd
from s3lora.methods import BUILTIN, method_class
from s3lora.scores import ScoreTable

BARE = [name for name in BUILTIN if not method_class(name).needs]


def sparse(folder: Path, m: int, n: int, r: int, dtype: str = "F32") -> Path:
    """An adapter of one module whose numbers are a hole in the file: zeros that take no space."""
    size = {"F32": 4, "BF16": 2, "F64": 8}[dtype]
    A, B = lora(Q, np.empty(0), np.empty(0))
    header = header_of({A: (dtype, (r, n), size * r * n), B: (dtype, (m, r), size * m * r)})
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(file_bytes(header))
        file.truncate(file.tell() + size * r * (m + n))
    fields = config_fields(r=r, target_modules=["q_proj"])
    (folder / CONFIG).write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("m", "n", "r", "reason"),
    [
        (2**20, 2**20, 128, f"268435456 numbers, more than {MAX_NUMBERS}"),
        (MAX_NUMBERS // 256, 1, 256, f"83886336 numbers, more than {MAX_NUMBERS}"),
        (MAX_SIDE + 1, 8, 4, f"a side of {MAX_SIDE + 1}, more than {MAX_SIDE}"),
        (8, MAX_SIDE + 1, 4, f"a side of {MAX_SIDE + 1}, more than {MAX_SIDE}"),
    ],
)
def test_a_module_that_takes_too_much_memory_cannot_be_judged(tmp_path, m, n, r, reason):
    folder = sparse(tmp_path / "a", m, n, r)
    result = CliRunner().invoke(cli, ["scan", str(folder), "--format", "json"])
    assert result.exit_code == 3, result.output
    (row,) = json.loads(result.stdout)["skipped"]
    assert reason in row["reason"]


def test_what_people_train_is_below_the_limits():
    vocabulary, width = 262_144, 5376  # Gemma 3 27B, embedding or head
    assert 256 * (vocabulary + width) <= MAX_NUMBERS
    assert vocabulary <= MAX_SIDE
    assert MAX_STACK >= 256 * 64 * 7168 * 2, "256 experts of DeepSeek-V3 at rank 64 in bfloat16"


def test_a_stack_of_experts_is_read_as_a_whole_and_has_a_limit_in_bytes(tmp_path):
    stack = "model.layers.0.mlp.experts"
    A, B = lora(stack, np.empty(0), np.empty(0))
    sizes = {A: ("F32", (128 * 2048, 1024), 2**30), B: ("F32", (8, 128 * 2048), 2**23)}
    folder = tmp_path / "a"
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(file_bytes(header_of(sizes)))
        file.truncate(file.tell() + 2**30 + 2**23)
    fields = config_fields(r=128, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])
    (folder / CONFIG).write_text(json.dumps(fields))
    adapter = open_adapter(folder)
    assert len(adapter.names) == 2048
    assert {slot.unscored for slot in adapter.slots.values()} == {
        f"a factor of its experts has {2**30} bytes, more than {MAX_STACK}"
    }


def test_the_memory_of_a_scan_is_a_few_copies_of_the_largest_module(tmp_path):
    """A twentieth of the limit, so that it is quick; the figure of SECURITY.md is in the log."""
    r, m, n = 64, 2**16 - 256, 256
    folder = tmp_path / "a"
    write_adapter(folder, {Q: (draw(r, n), draw(m, r))}, {"r": r, "target_modules": ["q_proj"]})
    adapter = open_adapter(folder)
    tracemalloc.start()
    table = scan(adapter)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    numbers = r * (m + n)
    assert len(table.scores) == 1
    assert peak < numbers * (4 + 8 + 8) + 4 * 8 * BLOCK, "as stored, in float64, and U"


PROGRAM = """
import resource, sys
from s3lora import open_adapter, scan
table = scan(open_adapter(sys.argv[1]))
print(len(table.scores), len(table.skipped))
"""


def test_a_scan_of_a_large_module_runs_in_little_more_than_it_holds(tmp_path):
    """2^24 numbers, 128 MiB in float64, in a process that may map no more than 2 GiB."""
    folder = sparse(tmp_path / "a", 2**16, 2**16, 128)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))

    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
        check=True,
    )
    assert found.stdout.split() == ["0", "1"], "a zero update, judged"


@pytest.mark.parametrize("condition", [1.0, 1e-6])
@pytest.mark.parametrize("wide", [False, True])
def test_large_factors_are_decomposed_by_blocks_as_small_ones_are(monkeypatch, condition, wide):
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((301, 6)), rng.standard_normal((6, 40))
    B[:, 3:] = condition * B[:, 3:] + (1 - condition) * B[:, :3]
    if wide:
        B, A = A.T.copy(), B.T.copy()
    whole, values = thin_svd(B, A), singular_values(B, A)
    spectrum = mas_svd(whole, 5)
    monkeypatch.setattr("s3lora.linalg.BLOCK", 50 * 6)
    assert len(list(row_blocks(np.zeros((301, 6))))) == 7
    blocked = thin_svd(B, A)
    np.testing.assert_allclose(blocked.s, whole.s, rtol=1e-9)
    np.testing.assert_allclose(singular_values(B, A), values, rtol=1e-9)
    np.testing.assert_allclose((blocked.U * blocked.s) @ blocked.V.T, B @ A, atol=1e-12)
    assert np.abs(blocked.U.T @ blocked.U - np.eye(len(blocked.s))).max() < 1e-8
    np.testing.assert_allclose(mas_svd(blocked, 5), spectrum, rtol=1e-6)


def test_an_update_is_formed_only_if_it_is_small():
    B, A = np.zeros((2**15, 1)), np.zeros((1, 2**14))
    with pytest.raises(UnsupportedError, match=f"more than {MAX_FORMED}"):
        formed(B, A)


def test_entries_of_a_huge_update_are_not_formed_one_by_one(tmp_path):
    folder = sparse(tmp_path / "a", 2**21, 2**21, 2)
    with (folder / WEIGHTS).open("r+b") as file:
        start = file.seek(0, 2) - 4 * 2 * 2**22
        for at in (0, 1, 2**22, 2**22 + 3):  # some numbers of A and of B
            file.seek(start + 4 * at)
            file.write(np.float32(1 + at).tobytes())
    (skipped,) = scan(open_adapter(folder), "fingerprint").skipped
    assert skipped.reason == "the update has too many entries"


ENDS = [5e-324, 1e-310, 1e-160, 1.0, 1e200, 1.7e308]


@pytest.mark.parametrize("alpha", [2, 1e-320, 1e308, -1.7e308])
def test_the_ends_of_float64_are_scored_or_said_never_nan(tmp_path, alpha):
    rng = np.random.default_rng(0)
    for at, (a, b) in enumerate(itertools.product(ENDS, ENDS)):
        A, B = (rng.choice([-1.0, 1, 0.5, 0.3], shape) for shape in ((2, 6), (8, 2)))
        config = {"lora_alpha": alpha, "target_modules": ["q_proj"]}
        folder = write_adapter(tmp_path / str(at), {Q: (a * A, b * B)}, config, dtype="F64")
        adapter = open_adapter(folder)
        for method in BARE:
            table = scan(adapter, method)
            assert len(table.scores) + len(table.skipped) == 1
            for score in table.scores:
                assert np.isfinite([score.value, *score.parts.values()]).all(), (a, b, method)
            if table.skipped and not table.skipped[0].judged and method == "s3lora":
                assert [f.rule for f in table.findings] == ["non-finite"], (a, b)


OUTSIDE_FLOAT32 = [
    (1e30, 1e30, 2.0, "beyond"),  # B·A overflows
    (1e39, 1.0, 2.0, "beyond"),  # so does A itself
    (1.0, 1.0, 1e40, "beyond"),  # and the scale
    (1e30, 1e30, 1e-40, "beyond"),  # the scale comes after the product
    (1e60, 1e-60, 2.0, "beyond"),
    (1e-60, 1.0, 2.0, "zero"),
    (1e-30, 1e-30, 2.0, "zero"),
    (1.0, 1.0, 1e-50, "zero"),
    (1e18, 1e18, 2.0, ""),
    (1e-15, 1e-15, 2.0, ""),
    (1e30, 1e-30, 2.0, ""),
]


@pytest.mark.parametrize(("a", "b", "alpha", "expected"), OUTSIDE_FLOAT32)
def test_what_float32_cannot_hold_is_no_score(tmp_path, a, b, alpha, expected):
    """PEFT holds factors and updates in float32, whatever the file does."""
    A, B = factors()
    config = {"lora_alpha": alpha, "target_modules": ["q_proj"]}
    pair = (a * A.astype(float), b * B.astype(float))
    adapter = open_adapter(write_adapter(tmp_path / "a", {Q: pair}, config, dtype="F64"))
    with np.errstate(all="ignore"):
        single = [factor.astype(np.float32) for factor in pair]
        applied = np.float32(single[1] @ single[0]) * np.float32(alpha / 2)
    assert np.isfinite(applied).all() == (expected != "beyond")
    assert applied.any() == (expected != "zero")
    table = scan(adapter)
    rules = [(finding.rule, finding.severity) for finding in table.findings]
    assert (
        rules
        == {
            "beyond": [("non-finite", "high")],
            "zero": [("zero-update", "medium")],
            "": [],
        }[expected]
    )
    assert len(table.scores) == (not expected)


@pytest.mark.parametrize("edit", ["flatten", "truncate", "scale"])
def test_edits_at_the_ends_of_float64_are_made_or_refused(tmp_path, edit):
    rng = np.random.default_rng(0)
    params = {"flatten": "level=0.6", "truncate": "energy=0.5", "scale": "factor=1e-200"}[edit]
    seen = set()
    for at, (a, b, alpha) in enumerate(itertools.product(ENDS, ENDS, [2, -1.7e308])):
        A, B = (rng.choice([-1.0, 1, 0.5, 0.3], shape) for shape in ((2, 6), (8, 2)))
        config = {"lora_alpha": alpha, "target_modules": ["q_proj"]}
        folder = write_adapter(tmp_path / str(at), {Q: (a * A, b * B)}, config, dtype="F64")
        words = ["prune", folder, "--modules", Q, "--edit", edit, "-e", params]
        result = CliRunner().invoke(cli, [*map(str, words), "-o", str(tmp_path / f"{at}-out")])
        assert not isinstance(result.exception, ArithmeticError | IndexError | ValueError), (a, b)
        assert "please report" not in result.output
        assert result.exit_code != 2 or "no module changes" in result.output, result.output
        seen.add(result.exit_code)
    assert seen >= {1, 3}, "made, with the finding that the source has; refused"


SPAWN = multiprocessing.get_context("spawn")
POOLS = {"threads": ThreadPoolExecutor, "processes": partial(ProcessPoolExecutor, mp_context=SPAWN)}


@pytest.mark.parametrize("kind", POOLS)
def test_adapters_are_scanned_in_a_pool_as_one_after_another(tmp_path, kind):
    folders = [write_adapter(tmp_path / str(at), {Q: factors(seed=at)}) for at in range(6)]
    with POOLS[kind](2) as pool:
        tables = list(pool.map(scanned, folders))
    assert tables == [scanned(folder) for folder in folders]


def test_one_adapter_read_by_many_threads_is_read_right(tmp_path):
    names = [f"model.layers.{at}.self_attn.q_proj" for at in range(24)]
    adapter = open_adapter(write_adapter(tmp_path / "a", names))
    alone = scan(adapter)
    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(lambda _: scan(adapter), range(16)))
    assert all(table == alone for table in tables)
    assert adapter.digest == open_adapter(tmp_path / "a").digest


def scanned(folder: Path) -> ScoreTable:
    """What a worker of a pool does; here so that a process can find it."""
    return scan(open_adapter(folder))
