"""The contract that every registered method passes, and what each one promises for itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dense
from s3lora.adapter import LoraModule, ModuleName, Weights
from s3lora.errors import ParameterError
from s3lora.linalg import thin_svd
from s3lora.mas_svd import _leading, mas_svd
from s3lora.methods import TableMethod, make_method, method_class, method_names, params_of
from s3lora.scores import ScoreTable, Skipped

pytestmark = pytest.mark.numerics

METHODS = method_names()
FOLLOWS_SCALE = {"magnitude", "splora"}
BESIDE_THE_WEIGHTS = {"lox-ratio", "intruder"}  # what they say depends on the size beside W
RELEASED = {"s3lora-released", "splora-released"}  # reproduce code that breaks the contract
SOUND = [name for name in METHODS if name not in RELEASED]
SHAPES = [(24, 24, 4), (40, 12, 4), (12, 40, 8), (6, 90, 8), (16, 16, 1)]


def module(m=24, n=24, r=4, seed=0, name="model.layers.3.self_attn.q_proj", scaling=2.0, **spec):
    """A module with a spectrum of our choice: `s` are the singular values of B·A."""
    rng = np.random.default_rng(seed)
    k = min(m, n, r)
    s = np.array(spec.get("s", rng.random(k) + 0.5))
    U = np.linalg.qr(rng.standard_normal((m, k)))[0]
    V = np.linalg.qr(rng.standard_normal((n, k)))[0]
    B, A = np.zeros((m, r)), np.zeros((r, n))
    B[:, :k], A[:k] = U * np.sqrt(s), (V * np.sqrt(s)).T
    return LoraModule(ModuleName(name), A, B, scaling)


def changed(source, **fields):
    return dataclasses.replace(source, **fields)


def weights_for(m, n):
    """Base and aligned weights of a shape; their difference has a spectrum that falls off."""
    rng = np.random.default_rng(m * 1000 + n)
    base = rng.standard_normal((m, n))
    k = min(m, n)
    change = rng.standard_normal((m, k)) * 0.7 ** np.arange(k) @ rng.standard_normal((k, n))
    return Weights(base, base + 0.1 * change)


def scored(name, given, weights=None, **params):
    weights = weights or weights_for(len(given.B), given.A.shape[1])
    return make_method(name, params).score(given, weights)


def value(name, given, weights=None, **params):
    return scored(name, given, weights, **params).value


@pytest.mark.parametrize("name", METHODS)
class TestContract:
    def test_it_is_a_frozen_dataclass_registered_by_its_own_name(self, name):
        found = method_class(name)
        assert dataclasses.is_dataclass(found)
        assert found.name == name
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
            make_method(name).anything = 1
        assert make_method(name, params_of(make_method(name))) == make_method(name)
        assert make_method(name).unsafe in ("high", "low")
        assert make_method(name).needs <= {"base", "aligned"}
        assert method_class(name).__doc__

    @pytest.mark.parametrize(("m", "n", "r"), SHAPES)
    def test_it_scores_modules_of_any_shape_with_a_finite_number(self, name, m, n, r):
        given = module(m, n, r)
        score = scored(name, given)
        assert score.module == given.name
        if isinstance(score, Skipped):
            assert name == "s3lora-released"
            assert m > n
            return
        assert np.isfinite([score.value, *score.parts.values()]).all()

    def test_it_is_deterministic_and_leaves_its_input_alone(self, name):
        given = module()
        before = given.A.copy(), given.B.copy()
        first, second = (scored(name, given) for _ in range(2))
        assert first == second
        assert np.array_equal(given.A, before[0])
        assert np.array_equal(given.B, before[1])

    def test_bfloat16_factors_score_as_the_numbers_they_hold(self, name):
        import ml_dtypes

        given = module(24, 32, 4)
        short = [x.astype(ml_dtypes.bfloat16) for x in (given.A, given.B)]
        exact = changed(given, A=short[0].astype(float), B=short[1].astype(float))
        assert np.isfinite(value(name, exact))
        if name not in RELEASED:
            assert value(name, exact) == pytest.approx(value(name, given), rel=0.05, abs=0.05)

    def test_conclude_keeps_modules_and_their_order(self, name):
        method = make_method(name)
        scores = tuple(
            scored(name, module(24, 24, r, seed=r, name=f"model.layers.{r}.q_proj"))
            for r in (1, 2, 3, 4, 6, 8)
        )
        if isinstance(method, TableMethod):
            concluded = method.conclude(scores)
            assert [score.module for score in concluded] == [score.module for score in scores]
            assert np.isfinite([score.value for score in concluded]).all()


@pytest.mark.parametrize("name", SOUND)
class TestInvariance:
    @pytest.mark.parametrize("seed", range(3))
    def test_it_sees_the_update_and_not_its_factors(self, name, seed):
        given = module(30, 20, 5, seed=seed)
        G = np.random.default_rng(seed + 9).standard_normal((5, 5)) + 3 * np.eye(5)
        turned = changed(given, A=np.linalg.solve(G, given.A), B=given.B @ G)
        assert value(name, turned) == pytest.approx(value(name, given), rel=1e-8)

    @pytest.mark.parametrize("factor", [1e-6, -3.0, 1e6])
    def test_it_follows_the_scale_or_ignores_it_as_it_declares(self, name, factor):
        if name in BESIDE_THE_WEIGHTS:
            pytest.skip("says how the update stands beside the weights, so its size counts")
        given = module()
        expected = abs(factor) if name in FOLLOWS_SCALE else 1.0
        for scaled in (
            changed(given, scaling=given.scaling * factor),
            changed(given, B=given.B * factor),
        ):
            assert value(name, scaled) == pytest.approx(expected * value(name, given), rel=1e-9)

    @pytest.mark.parametrize("side", ["rows", "columns"])
    def test_it_does_not_depend_on_the_order_of_rows_or_columns(self, name, side):
        given = module(30, 22, 4)
        order = np.random.default_rng(5).permutation(30 if side == "rows" else 22)
        weights = weights_for(30, 22)
        if side == "rows":
            moved = changed(given, B=given.B[order])
            beside = Weights(weights.base[order], weights.aligned[order])
        else:
            moved = changed(given, A=given.A[:, order])
            beside = Weights(weights.base[:, order], weights.aligned[:, order])
        assert value(name, moved, beside) == pytest.approx(value(name, given, weights), rel=1e-8)


def flat_and_sharp(scale, loud=()):
    """Twelve flat modules of growing size, and a sharp one of size `scale`, by name."""
    modules = [
        module(60, 50, 8, seed=k, s=np.full(8, 10.0**k * 1e-4), name=f"model.layers.{k}.q_proj")
        for k in range(8)
    ]
    sharp = module(60, 50, 8, seed=99, s=[8] + [0.5] * 7, scaling=scale, name="model.layers.4.up")
    sharp.B[list(loud)] *= 5
    return [*modules, sharp]


@pytest.mark.parametrize("name", ["s3lora", "spectrum"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("loud", [(), (7,)])
def test_a_planted_sharp_module_ranks_first_among_flat_ones_of_any_size(name, scale, loud):
    method = make_method(name)
    scores = tuple(scored(name, given) for given in flat_and_sharp(scale, loud))
    table = ScoreTable(name, {}, method.unsafe, scores)
    assert table.ranked()[0].module == "model.layers.4.up"


@pytest.mark.parametrize("measure", ["stable-rank", "effective-rank"])
def test_the_ranks_of_a_sharp_spectrum_are_low(measure):
    method = make_method("spectrum", {"measure": measure})
    scores = tuple(method.score(given, Weights()) for given in flat_and_sharp(1.0))
    table = ScoreTable("spectrum", params_of(method), method.unsafe, scores)
    assert method.unsafe == "low"
    assert table.ranked()[0].module == "model.layers.4.up"
    assert scores[0].value == pytest.approx(8)


def test_magnitude_is_the_frobenius_norm():
    given = module(30, 20, 4, scaling=0.5)
    expected = np.linalg.norm(0.5 * given.B @ given.A)
    assert value("magnitude", given) == pytest.approx(expected)


def test_random_depends_on_seed_and_name_only():
    a, b = module(seed=1), module(seed=2)
    assert value("random", a) == value("random", b)
    assert value("random", a) != value("random", changed(a, name=ModuleName("other")))
    assert value("random", a) != value("random", a, seed=1)
    draws = [value("random", changed(a, name=ModuleName(str(k)))) for k in range(2000)]
    assert 0 <= min(draws) < 0.01
    assert 0.99 < max(draws) < 1
    assert np.mean(draws) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "depth"),
    [("model.layers.11.mlp.up_proj", 11), ("lm_head", -1), ("model.layers.2.mlp.experts.7.w1", 2)],
)
def test_last_layers_reads_the_depth_off_the_name(name, depth):
    assert value("last-layers", module(name=name)) == depth


@pytest.mark.parametrize("measure", ["ssi", "plain"])
def test_a_rank_one_update_scores_one(measure):
    given = module(40, 30, 4, s=[3, 0, 0, 0])
    score = scored("s3lora", given)
    assert score.value == 1
    assert score.parts["excess"] == 1
    assert value("spectrum", given) == pytest.approx(1)


LOUD = {
    "plain": lambda B, A, rng: None,
    "loud rows": lambda B, A, rng: B.__setitem__(rng.integers(0, len(B), 3), 50.0),
    "loud columns": lambda B, A, rng: A.__setitem__((slice(None), [1, 2]), 90.0),
    "zero rows and columns": lambda B, A, rng: (
        B.__setitem__(slice(0, 9), 0),
        A.__setitem__((slice(None), slice(3, 8)), 0),
    ),
    "a factor of low rank": lambda B, A, rng: B.__setitem__((slice(None), 0), B[:, 1]),
    "far apart columns": lambda B, A, rng: B.__imul__(10.0 ** -np.arange(B.shape[1])),
}


@pytest.mark.parametrize("kind", LOUD)
@pytest.mark.parametrize(("m", "n", "r"), [(70, 40, 6), (40, 70, 3), (50, 50, 12), (20, 90, 5)])
@pytest.mark.parametrize("keep", [1, 3, 5, 8])
def test_s3lora_agrees_with_the_dense_definition(kind, m, n, r, keep):
    rng = np.random.default_rng(m + n + r + keep)
    B, A = rng.standard_normal((m, r)), rng.standard_normal((r, n))
    LOUD[kind](B, A, rng)
    given = LoraModule(ModuleName("x"), A, B, -0.7)
    expected = dense.sigma(-0.7 * B @ A, keep)
    assert mas_svd(thin_svd(B, A), keep) * 0.7 == pytest.approx(expected, rel=1e-7)
    assert value("s3lora", given, keep=keep) == pytest.approx(dense.ssi(B @ A, keep), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_dense_fit_agrees_with_its_definition(seed):
    rng = np.random.default_rng(seed)
    B, A = rng.standard_normal((26, 4)) * [4, 2, 1, 1], rng.standard_normal((4, 20))
    B[3] *= 20 * (seed % 2)
    given = LoraModule(ModuleName("x"), A, B, 1.0)
    expected = dense.ssi(B @ A, 3, dense.entrywise)
    assert value("s3lora", given, keep=3, fit="dense") == pytest.approx(expected, abs=1e-9)


def test_s3lora_scores_by_the_excess_where_ranks_differ():
    method = make_method("s3lora")
    scores = tuple(
        method.score(module(r=r, seed=r, name=f"layers.{r}.q"), Weights()) for r in (2, 4, 8)
    )
    assert [score.value for score in scores] == [score.parts["ssi"] for score in scores]
    assert [s.value for s in method.conclude(scores)] == [s.parts["excess"] for s in scores]
    same = scores[1:2] * 3
    assert method.conclude(same) == same


def test_a_loud_row_does_not_move_the_robust_right_vectors():
    """The plain right vectors swing towards the loud row; the normalised ones stay."""
    given = module(40, 30, 3, s=[3, 2, 1])
    loud = changed(given, B=given.B.copy())
    loud.B[5] *= 1e6
    robust, plain = [], []
    for each in (given, loud):
        U, s, V = thin_svd(each.B, each.A)
        W = _leading(U, s / s[0], 2)  # (k, 2)
        robust.append(V @ W @ W.T @ V.T)
        plain.append(V[:, :2] @ V[:, :2].T)
    assert np.abs(robust[0] - robust[1]).max() < 1e-9
    assert np.abs(plain[0] - plain[1]).max() > 1e-3


class TestRegistry:
    def test_an_unknown_method_answers_with_a_guess_and_the_list(self):
        with pytest.raises(ParameterError) as caught:
            make_method("s3lorra")
        assert "'s3lora'" in caught.value.hint
        assert "magnitude" in caught.value.hint

    def test_an_unknown_parameter_answers_with_those_there_are(self):
        with pytest.raises(ParameterError) as caught:
            make_method("s3lora", {"kep": "5"})
        assert "keep, fit" in caught.value.hint

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("s3lora", {"keep": "five"}),
            ("s3lora", {"keep": "0"}),
            ("s3lora", {"fit": "rough"}),
            ("spectrum", {"measure": "loudness"}),
            ("random", {"seed": "1.5"}),
        ],
    )
    def test_a_value_that_does_not_fit_is_refused(self, name, params):
        with pytest.raises(ParameterError):
            make_method(name, params)

    def test_text_becomes_the_type_of_the_default(self):
        assert make_method("s3lora", {"keep": "3"}) == make_method("s3lora", {"keep": 3})

    def test_listing_imports_no_method(self):
        import subprocess
        import sys

        code = (
            "import sys, s3lora.methods as m; m.method_names();"
            "print([k for k in sys.modules if k.startswith('s3lora.methods.')])"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.stdout.strip() == "[]", told.stderr
