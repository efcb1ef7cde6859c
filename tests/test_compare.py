"""What `compare` says of two adapters, against updates that are formed densely."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from adapters import NAMES, PREFIX, Q, V, draw, factors, lora, write_adapter, write_tensors
from s3lora import compare, open_adapter, prune
from s3lora.adapter import Adapter
from s3lora.cli import cli
from s3lora.compare import Difference

Save = Callable[..., Adapter]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save and open adapters, each in a folder of its own."""
    numbers = itertools.count()

    def save(*args: object, by: Callable[..., Path] = write_adapter, **kwargs: object) -> Adapter:
        return open_adapter(by(tmp_path / str(next(numbers)), *args, **kwargs))

    return save


def only(rows: tuple[Difference, ...], name: str = Q) -> Difference:
    return next(row for row in rows if row.module == name)


def dense(adapter: Adapter, name: str = Q) -> np.ndarray:
    module = adapter.read(name)
    return module.scaling * module.B @ module.A


def change(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(b - a) / np.linalg.norm(a))


def test_an_adapter_is_the_same_as_itself(save):
    rows = compare(save(), save())
    assert [row.module for row in rows] == list(NAMES)
    assert {(row.status, row.change) for row in rows} == {("same", 0.0)}


def test_norms_are_those_of_the_updates(save):
    a = save()
    b = save(config={"lora_alpha": -3, "use_rslora": True})
    for row in compare(a, b):
        assert row.norm_a == pytest.approx(np.linalg.norm(dense(a, row.module)), rel=1e-12)
        assert row.norm_b == pytest.approx(np.linalg.norm(dense(b, row.module)), rel=1e-12)


def test_rows_come_in_natural_order_of_the_names_of_both(save):
    a = save(["layers.10.q", "layers.2.q"], {"target_modules": ["q"]})
    b = save(["layers.9.q", "layers.2.q"], {"target_modules": ["q"]})
    told = [(row.module, row.status) for row in compare(a, b)]
    assert told == [
        ("layers.2.q", "same"),
        ("layers.9.q", "only in B"),
        ("layers.10.q", "only in A"),
    ]


def test_a_module_that_one_lacks_has_one_norm(save):
    a, b = save([Q, V]), save([Q])
    here, there = only(compare(a, b), V), only(compare(b, a), V)
    norm = pytest.approx(np.linalg.norm(dense(a, V)))
    assert (here.status, here.norm_a, here.norm_b, here.change) == ("only in A", norm, None, None)
    assert (there.status, there.norm_a, there.norm_b) == ("only in B", None, norm)


@pytest.mark.parametrize("r", [1, 2, 5, 9])
@pytest.mark.parametrize("config", [{}, {"lora_alpha": 1}, {"use_rslora": True}])
def test_change_is_the_dense_one_at_any_rank_and_scale(save, r, config):
    a = save({Q: factors()})
    b = save({Q: factors(r=r, seed=3)}, {"r": r, **config})
    row = only(compare(a, b))
    assert row.status == "changed"
    assert row.change == pytest.approx(change(dense(a), dense(b)), rel=1e-10)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
def test_a_small_change_is_not_lost(save, size):
    A, B = (factor.astype(np.float64) for factor in factors())
    a = save({Q: (A, B)}, dtype="F64")
    b = save({Q: (A, B + size * draw(8, 2, seed=5))}, dtype="F64")
    row = only(compare(a, b))
    assert row.change == pytest.approx(change(dense(a), dense(b)), rel=1e-7)


def test_another_scale_alone_is_a_change(save):
    row = only(compare(save(), save(config={"lora_alpha": 9})))  # 6 before
    assert row.status == "changed"
    assert row.change == pytest.approx(0.5)


def test_the_same_update_from_other_factors_is_no_change_in_size(save):
    A, B = factors()
    row = only(compare(save({Q: (A, B)}), save({Q: (2 * A, B / 2)})))
    assert row.status == "changed"
    assert row.change == pytest.approx(0, abs=1e-12)


def test_a_module_with_b_zeroed_has_changed_by_all_of_itself(save, tmp_path):
    a = save()
    rows = compare(a, prune(a, [Q], tmp_path / "out", target="zero-fill"))
    assert only(rows).norm_b == 0
    assert only(rows).change == pytest.approx(1)
    assert {row.status for row in rows if row.module != Q} == {"same"}


def test_from_a_zero_update_there_is_no_relative_change(save):
    A, B = factors()
    row = only(compare(save({Q: (A, 0 * B)}), save({Q: (A, B)})))
    assert (row.status, row.norm_a, row.change) == ("changed", 0.0, None)
    assert row.norm_b > 0


def test_two_zero_updates_are_the_same_if_their_factors_are(save):
    A, B = factors()
    row = only(compare(save({Q: (A, 0 * B)}), save({Q: (A, 0 * B)})))
    assert (row.status, row.norm_a, row.norm_b, row.change) == ("same", 0.0, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(8, 7), (9, 6)])
def test_modules_of_bases_of_other_shapes_cannot_be_compared(save, shape):
    m, n = shape
    row = only(compare(save({Q: factors()}), save({Q: factors(m=m, n=n)})))
    assert (row.status, row.change) == ("not comparable", None)
    assert row.norm_a > 0
    assert row.norm_b > 0


@pytest.mark.parametrize("config", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_a_module_that_cannot_be_judged_cannot_be_compared(save, config):
    a, b = save(), save(config=config)
    row, back, both = only(compare(a, b)), only(compare(b, a)), only(compare(b, b))
    assert (row.status, row.norm_b, row.change) == ("not comparable", None, None)
    assert (back.status, back.norm_a, back.change) == ("not comparable", None, None)
    assert row.norm_a == back.norm_b > 0
    assert (both.status, both.norm_a, both.norm_b) == ("not comparable", None, None)
    assert only(compare(b, save([V]))).norm_a is None


@pytest.mark.parametrize("factor", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_cannot_be_compared(save, bad, factor):
    A, B = factors()
    pair = (A.copy(), B.copy())
    pair[factor][1, 1] = bad
    spoilt = save({Q: pair})
    row, itself = only(compare(save({Q: (A, B)}), spoilt)), only(compare(spoilt, spoilt))
    assert (row.status, row.norm_b, row.change) == ("not comparable", None, None)
    assert (itself.status, itself.norm_a) == ("not comparable", None)


@pytest.mark.parametrize(("left", "right"), [(1e250, 1e-250), (1e-180, 1e-180), (1e150, 1e150)])
def test_sizes_at_the_ends_of_the_range_are_right(save, left, right):
    A, B = (factor.astype(np.float64) for factor in factors())
    a = save({Q: (A * left, B * right)}, dtype="F64")
    b = save({Q: (A * left, 2 * B * right)}, dtype="F64")
    row = only(compare(a, b))
    norm = np.linalg.norm(3 * B @ A) * (left * right)
    if 0 < norm < np.inf:
        assert row.norm_a == pytest.approx(norm)
        assert row.change == pytest.approx(1)
    assert row.change is None or np.isfinite(row.change)


def test_a_norm_too_large_for_a_number_cannot_be_compared(save):
    A, B = (factor.astype(np.float64) for factor in factors())
    a, b = save({Q: (A * 1e200, B * 1e200)}, dtype="F64"), save({Q: (A, B)})
    row = only(compare(a, b))
    assert (row.status, row.norm_a, row.change) == ("not comparable", None, None)


def test_a_change_too_large_for_a_number_is_none(save):
    A, B = (factor.astype(np.float64) for factor in factors())
    a = save({Q: (A * 1e-160, B * 1e-160)}, dtype="F64")
    row = only(compare(a, save({Q: (A, B)}, dtype="F64")))
    assert row.norm_a > 0
    assert (row.status, row.change) == ("changed", None)


def test_a_scale_that_overflows_b_alone_gives_no_change(save):
    A, B = (factor.astype(np.float64) for factor in factors())
    a = save({Q: (A * 1e-300, B * 1e300)}, {"lora_alpha": 1e20}, dtype="F64")
    row = only(compare(a, save({Q: (A, B)}, dtype="F64")))
    assert row.norm_a == pytest.approx(np.linalg.norm(B @ A) * 5e19)
    assert (row.status, row.change) == ("changed", None)


def test_embeddings_convolutions_and_experts_are_compared_as_what_they_are(save):
    def special(folder: Path, seed: int) -> Path:
        tensors = {
            f"{PREFIX}embed.lora_embedding_A": draw(2, 9, seed=seed),
            f"{PREFIX}embed.lora_embedding_B": draw(6, 2, seed=1),
            f"{PREFIX}conv.lora_A.weight": draw(2, 3, 3, 3, seed=seed),
            f"{PREFIX}conv.lora_B.weight": draw(5, 2, 1, 1, seed=2),
            f"{PREFIX}mlp.experts.lora_A.weight": draw(6, 5, seed=3),
            f"{PREFIX}mlp.experts.lora_B.weight": draw(8, 6, seed=4 + seed),
            **lora(Q, *factors()),
        }
        config = {"target_parameters": ["experts.gate_up_proj"]}
        return write_tensors(folder, tensors, target_modules=["embed", "conv", "q_proj"], **config)

    a, b = save(0, by=special), save(1, by=special)
    rows = compare(a, b)
    assert len(rows) == 6
    assert only(rows, Q).status == "same"
    for row in rows:
        if row.module != Q:
            expected = change(dense(a, row.module), dense(b, row.module))
            assert row.change == pytest.approx(expected, rel=1e-10)


def test_the_command_prints_the_same_as_json(save):
    a, b = save([Q, V]), save({Q: factors(seed=3)})
    result = CliRunner().invoke(cli, ["compare", a.ref, b.ref, "--format", "json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["schema"], told["a"], told["b"]) == (1, a.ref, b.ref)
    rows = compare(a, b)
    assert [(row["module"], row["status"], row["change"]) for row in told["modules"]] == [
        (row.module, row.status, row.change) for row in rows
    ]
