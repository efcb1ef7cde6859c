"""Methods that read base and aligned weights, fingerprints and rows: each against dense algebra."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.linalg import null_space
from scipy.stats import kurtosis as scipy_kurtosis
from scipy.stats import spearmanr

from adapters import tensor_bytes, write_adapter
from s3lora.adapter import LoraModule, ModuleName, Weights
from s3lora.alignment import reweighted, subspace, truncated_svd
from s3lora.cli import cli
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.io import open_adapter
from s3lora.io.checkpoint import SINGLE, Checkpoint
from s3lora.methods import fingerprint, make_method
from s3lora.methods.fingerprint import FEATURES, kurtosis
from s3lora.methods.rows import hoyer
from s3lora.scan import scan
from s3lora.scores import Skipped

pytestmark = pytest.mark.numerics

SHAPES = [(24, 16, 4), (16, 24, 4), (20, 20, 6), (40, 8, 8)]


def draw(*shape: int, seed: int = 0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def falling(m, n, seed=0, rate=0.7):
    """A matrix with a spectrum that falls off, so that a subspace of it is a choice."""
    k = min(m, n)
    return draw(m, k, seed=seed) * rate ** np.arange(k) @ draw(k, n, seed=seed + 1)


def case(m, n, r, seed=0, scaling=-0.5):
    """A module, base and aligned weights, and the dense V and ΔW."""
    A, B = draw(r, n, seed=seed + 2), draw(m, r, seed=seed + 3)
    base = draw(m, n, seed=seed + 4)
    weights = Weights(base, base + falling(m, n, seed + 5))
    given = LoraModule(ModuleName(f"layers.{seed}.q"), A, B, scaling)
    return given, weights, weights.aligned - base, scaling * B @ A


def of(values, r=None):
    """A module whose update has these singular values."""
    k = len(values)
    U, V = (np.linalg.qr(draw(size, k, seed=size))[0] for size in (30, 22))
    return LoraModule(ModuleName("x"), V.T, U * np.array(values, float), 1.0)


def matrix_of(X, name="x"):
    """A module whose update is X."""
    return LoraModule(ModuleName(name), np.asarray(X, float), np.eye(len(X)), 1.0)


def score(name, given, weights=None, **params):
    return make_method(name, params).score(given, weights or Weights())


def cosine(X, Y):
    return (X * Y).sum() / np.linalg.norm(X) / np.linalg.norm(Y)


# --- safe-lora


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
def test_safe_lora_is_the_dense_cosine(m, n, r):
    given, weights, V, X = case(m, n, r)
    C = V @ V.T / np.linalg.norm(V)
    found = score("safe-lora", given, weights)
    assert found.value == pytest.approx(cosine(C @ X, X), abs=1e-10)
    shrunk = np.linalg.norm(C @ X) / np.linalg.norm(X)
    assert found.parts["shrinks_to"] == pytest.approx(shrunk, rel=1e-10)
    assert 0 < found.value < 1


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
def test_the_reweighting_is_symmetric_and_positive_semi_definite(m, n, r):
    V = case(m, n, r)[2]
    C = reweighted(V, np.eye(m))
    assert np.abs(C - C.T).max() < 1e-12
    assert np.linalg.eigvalsh(C).min() > -1e-12


def test_the_reweighting_is_a_projector_only_where_the_singular_values_are_equal():
    def departure(V):
        C = reweighted(V, np.eye(len(V)))
        squared = C @ C
        return np.abs(
            squared - C * cosine(squared, C) * np.linalg.norm(squared) / np.linalg.norm(C)
        ).max()

    Q = np.linalg.qr(draw(20, 6))[0]
    assert departure(3 * Q) < 1e-12  # C² ∝ C
    assert departure(Q * np.arange(1, 7)) > 1e-2


@pytest.mark.parametrize("method", ["safe-lora", "lox-ratio", "splora"])
@pytest.mark.parametrize("factor", [1e-4, 7.0, 1e4])
def test_the_size_of_the_alignment_counts_as_it_should(method, factor):
    given, weights, V, _ = case(24, 16, 4)
    wider = Weights(weights.base, weights.base + factor * V)
    before, after = score(method, given, weights), score(method, given, wider)
    if method == "lox-ratio":  # tuned is base + V + ΔW: the update shrinks beside a larger V
        assert after.value != pytest.approx(before.value, rel=1e-3)
    else:
        assert after.value == pytest.approx(before.value, rel=1e-6)


def test_safe_lora_is_one_inside_equal_directions_and_zero_outside():
    Q = np.linalg.qr(draw(20, 6))[0]
    outside = null_space(Q.T)
    weights = Weights(np.zeros((20, 6)), 2 * Q)
    inside = LoraModule(ModuleName("x"), draw(3, 6), Q @ draw(6, 3), 1.0)
    assert score("safe-lora", inside, weights).value == pytest.approx(1, abs=1e-12)
    apart = dataclasses.replace(inside, B=outside @ draw(14, 3))
    assert score("safe-lora", apart, weights).value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_cosine_never_leaves_its_bounds(seed):
    Q = np.linalg.qr(draw(9, 9, seed=seed))[0]
    given = matrix_of(draw(9, 4, seed=seed))
    weights = Weights(np.zeros((9, 9)), 1e3 * Q)  # C ∝ I: the cosine is 1 but for rounding
    value = score("safe-lora", given, weights).value
    assert 1 - 1e-12 < value <= 1


# --- the alignment subspace


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
@pytest.mark.parametrize("energy", [0.3, 0.9, 0.999])
def test_the_subspace_is_the_smallest_that_holds_the_energy(m, n, r, energy):
    V = case(m, n, r)[2]
    U, s, _ = np.linalg.svd(V)
    held = np.cumsum(s**2) / (s**2).sum()
    k = next(k for k in range(1, len(s) + 1) if held[k - 1] >= energy)
    basis = subspace(V, energy)
    assert basis.shape == (m, k)
    P = basis @ basis.T
    assert np.abs(P @ P - P).max() < 1e-10
    assert np.abs(P - U[:, :k] @ U[:, :k].T).max() < 1e-9


def test_the_subspace_has_as_many_vectors_as_asked_for():
    V = falling(24, 16)
    U = np.linalg.svd(V)[0]
    for k in (1, 3, 15, 16):
        basis = subspace(V, 0.9, k)
        assert np.abs(basis @ basis.T - U[:, :k] @ U[:, :k].T).max() < 1e-9
    assert subspace(V, 0.9, 99).shape == (24, 16)


def test_all_of_the_energy_of_a_matrix_of_low_rank_is_in_that_many_vectors():
    for m, n in ((24, 16), (16, 24)):
        assert subspace(draw(m, 3) @ draw(3, n), 1.0).shape == (m, 3)


@pytest.mark.parametrize("k", [1, 4, 7, 12])
@pytest.mark.parametrize("formed", [True, False])
def test_the_truncated_decomposition_is_the_top_of_the_full_one(k, formed):
    X = falling(30, 14)
    matvecs = () if formed else (lambda x: X @ x, lambda y: X.T @ y)
    U, s, Vh = truncated_svd(X, k, matvecs)
    assert s == pytest.approx(np.linalg.svd(X, compute_uv=False)[:k], rel=1e-9)
    best = np.linalg.svd(X)
    assert np.abs(U * s @ Vh - best[0][:, :k] * best[1][:k] @ best[2][:k]).max() < 1e-8


# --- splora


def dense_distance(V, X, projection, energy=0.9):
    if projection == "safe-lora":
        Pi = V @ V.T / np.linalg.norm(V)
    else:
        U, s, _ = np.linalg.svd(V)
        k = int((np.cumsum(s**2) < energy * (s**2).sum()).sum()) + 1
        Pi = U[:, :k] @ U[:, :k].T
    return np.linalg.norm(X - Pi @ X) / np.sqrt(X.size)


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
@pytest.mark.parametrize("projection", ["subspace", "safe-lora"])
def test_the_distance_is_the_dense_one(m, n, r, projection):
    given, weights, V, X = case(m, n, r)
    found = score("splora", given, weights, projection=projection)
    d = dense_distance(V, X, projection)
    assert found.parts["distance"] == pytest.approx(d, abs=1e-10)
    share = d * np.sqrt(X.size) / np.linalg.norm(X)
    assert found.parts["share_outside"] == pytest.approx(share, abs=1e-10)


def table_of(cases, factor=1.0, **params):
    """The concluded scores of several cases, all weights and updates scaled by a factor."""
    method = make_method("splora", params)
    rows = []
    for given, weights, *_ in cases:
        scaled = dataclasses.replace(given, scaling=given.scaling * factor)
        beside = Weights(factor * weights.base, factor * weights.aligned)
        rows.append(method.score(scaled, beside))
    return method.conclude(tuple(rows))


MANY = [case(*SHAPES[seed % 4], seed=seed, scaling=1 + 0.2 * seed) for seed in range(9)]


@pytest.mark.parametrize("projection", ["subspace", "safe-lora"])
@pytest.mark.parametrize("robust", [False, True])
def test_ediem_is_its_definition(projection, robust):
    d = np.array([dense_distance(V, X, projection) for *_, V, X in MANY])
    if robust:
        expected = (d - np.median(d)) / (np.quantile(d, 0.75) - np.quantile(d, 0.25))
    else:
        expected = (d.max() - d.min()) * (d - d.mean()) / d.var()
    found = table_of(MANY, projection=projection, robust=robust)
    assert [row.value for row in found] == pytest.approx(list(expected), abs=1e-9)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e6])
@pytest.mark.parametrize("params", [{}, {"robust": True}, {"k": 3}])
def test_ediem_does_not_change_when_all_weights_are_scaled_together(factor, params):
    before, after = table_of(MANY, **params), table_of(MANY, factor, **params)
    expected = [row.value for row in before]
    assert [row.value for row in after] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_by_safe_lora_s_projection_it_does_because_that_one_grows_with_the_weights():
    """C = V·Vᵀ/‖V‖_F is linear in V: scaled with the weights it shrinks the update less."""
    before, after = (table_of(MANY, factor, projection="safe-lora") for factor in (1, 1e-3))
    values = [[row.value for row in rows] for rows in (before, after)]
    assert values[1] != pytest.approx(values[0], rel=0.01)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("planted", [0, 5, 11])
def test_a_planted_misaligned_module_ranks_first(planted, robust):
    """All updates are of one size and lie within the alignment; one lies outside."""
    method = make_method("splora", {"robust": robust})
    rows = []
    for seed in range(12):
        Q = np.linalg.qr(draw(24, 24, seed=seed))[0]
        inside, outside = Q[:, :6], Q[:, 6:]
        weights = Weights(np.zeros((24, 16)), inside @ draw(6, 16, seed=seed))
        mix = 0.02 + 0.01 * seed if seed != planted else 5.0
        X = inside @ draw(6, 16, seed=seed + 50) + mix * outside @ draw(18, 16, seed=seed + 90)
        given = matrix_of(X / np.linalg.norm(X), f"layers.{seed}.q")
        rows.append(method.score(given, weights))
    values = [row.value for row in method.conclude(tuple(rows))]
    assert int(np.argmax(values)) == planted
    assert method.unsafe == "high"


@pytest.mark.parametrize("robust", [False, True])
def test_modules_at_one_distance_are_undefined(robust):
    method = make_method("splora", {"robust": robust})
    rows = tuple(method.score(*MANY[0][:2]) for _ in range(8))
    with pytest.raises(UnsupportedError, match="undefined for modules without spread"):
        method.conclude(rows)


def test_a_projection_that_reaches_everything_is_undefined_and_no_rounding_noise():
    method = make_method("splora", {"k": 99})
    square = [case(12, 12, 4, seed=seed) for seed in range(8)]
    rows = tuple(method.score(given, weights) for given, weights, *_ in square)
    assert {row.parts["distance"] for row in rows} == {0.0}
    with pytest.raises(UnsupportedError, match="undefined"):
        method.conclude(rows)


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_than_five_modules_are_refused_with_the_reason(count):
    method = make_method("splora")
    rows = tuple(method.score(given, weights) for given, weights, *_ in MANY[:count])
    with pytest.raises(UnsupportedError, match=f"undefined for {count} modules") as caught:
        method.conclude(rows)
    assert "at least 5 modules" in caught.value.hint
    assert len(method.conclude(rows + tuple(method.score(*c[:2]) for c in MANY[4:9]))) > 5


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("splora", {"projection": "orthogonal"}),
        ("splora", {"energy": 0.0}),
        ("splora", {"energy": 1.1}),
        ("splora", {"k": -1}),
        ("lox-ratio", {"k": 0}),
        ("intruder", {"top": 0}),
        ("intruder", {"epsilon": 0.0}),
        ("intruder", {"against": -1}),
        ("fingerprint", {"feature": "loudness"}),
        ("rows", {"measure": "loudness"}),
        ("s3lora-released", {"keep": 0}),
        ("splora-released", {"form": "mean"}),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(method, params):
    with pytest.raises(ParameterError):
        make_method(method, params)


@pytest.mark.parametrize("method", ["safe-lora", "splora", "lox-ratio", "splora-released"])
def test_identical_weights_are_undefined_and_never_a_number(method):
    given, weights, *_ = MANY[0]
    found = score(method, given, Weights(weights.base, weights.base.copy()))
    assert isinstance(found, Skipped)
    assert "undefined" in found.reason
    assert not found.judged


# --- on the command line


def folders(tmp_path: Path, count: int, *, same: bool = False) -> list[str]:
    """A scan's arguments: an adapter of `count` modules and two checkpoints."""
    names = [f"model.layers.{at}.q_proj" for at in range(count)]
    paths = [str(write_adapter(tmp_path / "adapter", names, {"target_modules": ["q_proj"]}))]
    base = {f"{n}.weight": draw(8, 6, seed=at).astype("f4") for at, n in enumerate(names)}
    aligned = (
        base if same else {key: W + draw(8, 6, seed=99).astype("f4") for key, W in base.items()}
    )
    for role, tensors in (("base", base), ("aligned", aligned)):
        (tmp_path / role).mkdir()
        (tmp_path / role / SINGLE).write_bytes(tensor_bytes(tensors))
        paths += [f"--{role}", str(tmp_path / role)]
    return paths


def run(*words: str):
    result = CliRunner().invoke(cli, ["scan", *words], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_command_refuses_ediem_of_four_modules_and_scores_five(tmp_path):
    four = run(
        *folders(tmp_path / "4", 4) if (tmp_path / "4").mkdir() is None else (), "-m", "splora"
    )
    assert four.exit_code == 3
    assert "E-DIEM is undefined for 4 modules" in four.stderr
    (tmp_path / "5").mkdir()
    assert run(*folders(tmp_path / "5", 5), "-m", "splora").exit_code == 0


@pytest.mark.parametrize("method", ["safe-lora", "splora", "lox-ratio"])
def test_the_command_says_undefined_of_identical_weights(tmp_path, method):
    result = run(*folders(tmp_path, 6, same=True), "-m", method, "-v")
    assert result.exit_code == 3
    assert "undefined" in result.stdout


@pytest.mark.parametrize("given", [[], ["--base"], ["--aligned"]])
def test_the_command_names_the_weights_that_are_missing(tmp_path, given):
    words = folders(tmp_path, 5)
    options = [word for flag in given for word in (flag, words[words.index(flag) + 1])]
    result = run(words[0], *options, "-m", "safe-lora")
    assert result.exit_code == 2
    for role in ("base", "aligned"):
        assert (f"--{role} DIR" in result.stderr) == (f"--{role}" not in given)


def test_a_scan_scores_what_the_method_scores(tmp_path):
    words = folders(tmp_path, 6)
    adapter = open_adapter(words[0])
    base, aligned = Checkpoint(words[2]), Checkpoint(words[4])
    table = scan(adapter, "safe-lora", base=base, aligned=aligned)
    for row in table.scores:
        slot, module = adapter.slots[row.module], adapter.read(row.module)
        V = aligned.matrix(row.module, slot) - base.matrix(row.module, slot)
        X = module.B @ module.A
        assert row.value == pytest.approx(cosine(V @ V.T @ X, X), abs=1e-10)


# --- lox-ratio


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_lox_ratio_is_the_dense_one(m, n, r, k):
    given, weights, D, X = case(m, n, r)
    U = np.linalg.svd(D)[0][:, :k]
    aligned = np.linalg.norm(U.T @ D) / np.linalg.norm(D)
    tuned = np.linalg.norm(U.T @ (D + X)) / np.linalg.norm(D + X)
    found = score("lox-ratio", given, weights, k=k)
    assert found.parts["r_align"] == pytest.approx(aligned, abs=1e-10)
    assert found.parts["r_ft"] == pytest.approx(tuned, abs=1e-10)
    assert found.value == pytest.approx(tuned / aligned, abs=1e-10)


def test_all_directions_hold_all_of_the_alignment():
    given, weights, *_ = case(16, 24, 4)
    found = score("lox-ratio", given, weights, k=16)
    assert found.parts["r_align"] == pytest.approx(1, abs=1e-12)
    assert found.value == pytest.approx(1, abs=1e-12)


def test_a_larger_update_elsewhere_leaves_less_of_the_alignment():
    Q = np.linalg.qr(draw(24, 24))[0]
    weights = Weights(np.zeros((24, 16)), Q[:, :4] @ draw(4, 16))
    outside = LoraModule(ModuleName("x"), draw(3, 16), Q[:, 4:7], 0.0)
    values = [
        score("lox-ratio", dataclasses.replace(outside, scaling=size), weights, k=4).value
        for size in (1e-9, 0.1, 1.0, 10.0)
    ]
    assert values[0] == pytest.approx(1, abs=1e-9)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_an_update_that_takes_the_alignment_back_has_no_ratio(seed):
    B, A = draw(20, 3, seed=seed), draw(3, 15, seed=seed)
    base = draw(20, 15, seed=seed)
    given = LoraModule(ModuleName("x"), A, B, -1.0)
    found = score("lox-ratio", given, Weights(base, base + B @ A), k=3)
    assert isinstance(found, Skipped)
    assert "undefined" in found.reason


# --- intruder


@pytest.mark.parametrize(("size", "count"), [(1e-12, 0), (1e3, 1)])
def test_a_tiny_update_brings_no_intruders_and_a_loud_one_does(size, count):
    W = falling(30, 22, rate=0.8)
    given = LoraModule(ModuleName("x"), draw(1, 22, seed=8), draw(30, 1, seed=9), size)
    found = score("intruder", given, Weights(base=W))
    assert found.value == count
    assert (found.parts["least"] < 1 - 1e-9) == (size > 1)


@pytest.mark.parametrize(
    ("m", "n", "top"),
    [(60, 40, 5), (60, 40, 30), (6, 90, 10), (90, 6, 10), (1, 40, 10), (40, 1, 3)],
)
@pytest.mark.parametrize("against", [0, 2])
def test_the_count_is_the_dense_one(m, n, top, against):
    W, given = falling(m, n, rate=0.9), LoraModule(ModuleName("x"), draw(2, n), draw(m, 2), 0.8)
    top_dense, own = min(top, m, n), against or None
    tuned = np.linalg.svd(W + 0.8 * given.B @ given.A)[0][:, :top_dense]
    base = np.linalg.svd(W, full_matrices=False)[0][:, :own]
    similarity = np.abs(tuned.T @ base).max(axis=1)
    found = score("intruder", given, Weights(base=W), top=top, against=against, epsilon=0.6)
    assert found.value == (similarity < 0.6).sum()
    assert found.parts["least"] == pytest.approx(similarity.min(), abs=1e-7)
    assert found.parts["mean"] == pytest.approx(similarity.mean(), abs=1e-7)


def test_fewer_vectors_to_be_held_against_can_only_bring_more_intruders():
    W = falling(40, 30, rate=0.95)
    given = LoraModule(ModuleName("x"), draw(4, 30), draw(40, 4), 0.5)
    counts = [score("intruder", given, Weights(base=W), against=k).value for k in (1, 3, 10, 30, 0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] >= 9  # nine of ten vectors are not the first one
    assert counts[-2] == counts[-1]


# --- fingerprint


def test_rank_one_has_all_concentration_and_no_entropy():
    parts = score("fingerprint", of([3.0])).parts
    assert parts["concentration"] == pytest.approx(1, abs=1e-12)
    assert parts["entropy"] == pytest.approx(0, abs=1e-12)
    assert parts["entropy"] >= 0
    assert parts["sigma_1"] == parts["frobenius"] == pytest.approx(3)


@pytest.mark.parametrize("r", [2, 5, 16])
def test_equal_singular_values_have_the_least_concentration_and_all_entropy(r):
    parts = score("fingerprint", of([0.2] * r)).parts
    assert parts["concentration"] == pytest.approx(1 / r)
    assert parts["entropy"] == pytest.approx(np.log(r))
    assert parts["frobenius"] == pytest.approx(0.2 * r**0.5)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_the_dense_one(feature):
    given, _, _, X = case(24, 16, 4)
    s = np.linalg.svd(X, compute_uv=False)[:4]
    share = s / s.sum()
    expected = {
        "kurtosis": scipy_kurtosis(X, axis=None),
        "concentration": share[0],
        "entropy": -(share @ np.log(share)),
        "sigma_1": s[0],
        "frobenius": np.linalg.norm(X),
    }
    assert score("fingerprint", given, feature=feature).value == pytest.approx(expected[feature])


@pytest.mark.parametrize("block", [1, 7, 16, 50, 24 * 16, 2**20])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_kurtosis_is_scipy_s_whatever_the_blocks(monkeypatch, block, shift):
    monkeypatch.setattr(fingerprint, "BLOCK", block)
    A = draw(4, 16)
    A[0] += shift  # a mean that is not zero
    B = draw(24, 4) ** 3 + shift
    parts = score("fingerprint", LoraModule(ModuleName("x"), A, B, -2.0)).parts
    for convention, fisher in (("kurtosis_fisher", True), ("kurtosis_pearson", False)):
        expected = scipy_kurtosis(-2 * B @ A, axis=None, fisher=fisher)
        assert parts[convention] == pytest.approx(expected, rel=1e-10)


def test_kurtosis_of_normal_entries_is_three_and_of_an_outlier_is_large():
    normal = draw(400, 300)
    assert kurtosis(np.eye(400), normal) == pytest.approx(3, abs=0.1)
    normal[3, 4] = 100
    assert kurtosis(np.eye(400), normal) > 100


@pytest.mark.parametrize("number", [0.1, 1.0, 1 / 3])
def test_equal_entries_have_no_kurtosis_but_the_other_features(number):
    flat = LoraModule(ModuleName("x"), np.full((3, 7), number), np.full((9, 3), number), 0.7)
    found = score("fingerprint", flat)
    assert isinstance(found, Skipped)
    assert "undefined" in found.reason
    rest = score("fingerprint", flat, feature="sigma_1")
    assert rest.value == pytest.approx(0.7 * 3 * number**2 * 63**0.5)
    assert "kurtosis_fisher" not in rest.parts


def test_the_fingerprint_needs_no_weights_and_the_entropy_alone_is_low():
    assert {f: make_method("fingerprint", {"feature": f}).unsafe for f in FEATURES} == FEATURES
    assert [feature for feature, end in FEATURES.items() if end == "low"] == ["entropy"]


# --- rows


@pytest.mark.parametrize(
    ("x", "expected"),
    [([0, 0, 5, 0], 1.0), ([2, 2, 2, 2], 0.0), ([1, 1, 0, 0], (2 - 2**0.5) / 1), ([7], 1.0)],
)
def test_hoyer_by_hand(x, expected):
    assert hoyer(np.array(x, float)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", range(2, 60))
def test_hoyer_of_a_constant_never_leaves_its_bounds(size):
    assert 0 <= hoyer(np.full(size, 0.1)) < 1e-12


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
def test_rows_are_those_of_the_dense_update(m, n, r):
    given, _, _, X = case(m, n, r)
    parts = score("rows", given).parts
    for axis, hoyer_name, share_name in (
        (1, "row-hoyer", "top-rows"),
        (0, "column-hoyer", "top-columns"),
    ):
        norms = np.linalg.norm(X, axis=axis)
        root = len(norms) ** 0.5
        expected = (root - norms.sum() / np.linalg.norm(norms)) / (root - 1)
        assert parts[hoyer_name] == pytest.approx(expected, abs=1e-10)
        top = np.sort(norms**2)[::-1][:8].sum() / (norms**2).sum()
        assert parts[share_name] == pytest.approx(top, abs=1e-10)


@pytest.mark.parametrize("measure", ["row-hoyer", "top-rows", "column-hoyer", "top-columns"])
def test_each_measure_is_the_part_of_its_name(measure):
    found = score("rows", case(24, 16, 4)[0], measure=measure)
    assert found.value == found.parts[measure]


@pytest.mark.parametrize("side", ["row", "column"])
def test_eight_loud_rows_are_found_where_the_spectrum_misses_them(side):
    """Their part of the update is as flat as the rest: loud rows are not a sharp spectrum."""
    modules = []
    for seed in range(10):
        B, A = draw(200, 8, seed=seed), draw(8, 160, seed=seed)
        if seed == 6:
            B, A = (np.linalg.qr(x)[0] for x in (B, A.T))
            B[:8] = 4 * np.linalg.qr(draw(8, 8))[0]
            A = A.T
        if side == "column":
            B, A = A.T, B.T
        modules.append(LoraModule(ModuleName(f"layers.{seed}.q"), A, B, 1.0))

    def first(method, **params):
        return int(np.argmax([score(method, given, **params).value for given in modules]))

    assert first("rows", measure=f"{side}-hoyer") == 6
    assert first("rows", measure=f"top-{side}s") == 6
    assert first("spectrum") != 6
    other = {"row": "column", "column": "row"}[side]
    assert first("rows", measure=f"{other}-hoyer") != 6


# --- what was released


def synthetic(count=24, seed=0):
    """Modules of sizes and concentrations that have nothing to do with one another."""
    rng = np.random.default_rng(seed)
    sizes, decays = 10 ** rng.uniform(-6, -3, count), rng.uniform(0.2, 1, count)
    return [
        dataclasses.replace(of(decay ** np.arange(8)), name=ModuleName(str(at)), scaling=1.0)
        for at, decay in enumerate(decays)
    ], sizes


def released_inputs():
    modules, sizes = synthetic()
    flipped = [
        dataclasses.replace(given, A=given.B.T * size, B=given.A.T)
        for given, size in zip(modules, sizes, strict=True)
    ]
    return flipped, sizes


def test_the_released_index_follows_the_size_and_not_the_sharpness():
    """Spearman, measured: 1.00 with S[0], 0.99 with the size, -0.09 with σ₁/Σσ; `s3lora` 0.99."""
    modules, sizes = released_inputs()
    rows = [score("s3lora-released", given) for given in modules]
    index = [row.value for row in rows]
    sharpness = [score("spectrum", given).value for given in modules]
    assert spearmanr(index, [row.parts["s_0"] for row in rows])[0] > 0.999
    assert spearmanr(index, sizes)[0] > 0.9
    assert abs(spearmanr(index, sharpness)[0]) < 0.4
    sound = [score("s3lora", given).value for given in modules]
    assert spearmanr(sound, sharpness)[0] > 0.9
    assert abs(spearmanr(sound, sizes)[0]) < 0.4


def test_the_released_index_grows_with_the_size_of_one_update():
    given = released_inputs()[0][0]
    values = [
        score("s3lora-released", dataclasses.replace(given, B=given.B * size)).value
        for size in (1e-3, 1e-1, 1e1, 1e3)
    ]
    assert values == sorted(values)
    assert values[0] < 0.5 < 0.9 < values[-1]


def test_the_released_index_skips_what_its_code_fails_on():
    found = score("s3lora-released", case(24, 16, 4)[0])
    assert isinstance(found, Skipped)
    assert "taller than wide" in found.reason
    assert not isinstance(score("s3lora-released", case(16, 24, 4)[0]), Skipped)


def test_the_released_ediem_is_noise():
    """Fifty copies of one distance have no spread: what is left is how their mean is rounded."""
    cases = []
    for seed in range(120):
        given, weights, *_ = case(20, 24, 4, seed=seed, scaling=1.0)
        size = 10 ** np.random.default_rng(seed).uniform(-1.5, -0.5)
        cases.append((dataclasses.replace(given, B=given.B * size), weights))
    std = [score("splora-released", *each, form="std") for each in cases]
    iqr = [score("splora-released", *each) for each in cases]
    distances = [row.parts["distance"] for row in std]
    assert max(distances) > 5 * min(distances)
    assert max(abs(row.value) for row in std) < 0.02  # measured: 0.008
    assert np.ptp([row.value for row in iqr]) > 5  # measured: 15.5
    for rows in (std, iqr):  # measured: -0.11 and -0.06
        assert abs(spearmanr([row.value for row in rows], distances)[0]) < 0.3


def test_the_released_distance_is_the_dense_one():
    given, weights, V, _ = case(20, 24, 4)
    C, X = V @ V.T / np.linalg.norm(V), given.B @ given.A
    found = score("splora-released", given, weights)
    assert found.parts["distance"] == pytest.approx(np.linalg.norm(C @ X - X), rel=1e-5)
