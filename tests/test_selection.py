"""Policies: from a table of scores to names."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s3lora.adapter import ModuleName, layer_of, natural_key, projection_of
from s3lora.errors import ParameterError
from s3lora.scores import Score, ScoreTable, Skipped
from s3lora.selection import (
    Among,
    ByLayer,
    Fraction,
    Named,
    Outliers,
    Threshold,
    TopK,
    default_policy,
    robust_z,
)


def table(values, unsafe="high", skipped=()):
    scores = tuple(Score(ModuleName(name), value) for name, value in values.items())
    skips = tuple(Skipped(ModuleName(name), "zero update", judged=True) for name in skipped)
    return ScoreTable("test", {}, unsafe, scores, skips)


def numbered(*values, unsafe="high"):
    return table({f"layers.{k}.q": value for k, value in enumerate(values)}, unsafe)


def layers(chosen):
    return [int(layer_of(name).rpartition(".")[2]) for name in chosen]


def test_top_k_takes_exactly_k_from_the_end_that_matters():
    values = [3, 1, 2, 5, 4]
    assert layers(TopK(2)(numbered(*values))) == [3, 4]
    assert layers(TopK(2)(numbered(*values, unsafe="low"))) == [1, 2]
    assert TopK(0)(numbered(*values)) == ()


def test_ties_are_broken_by_name_in_natural_order():
    tied = table({f"layers.{k}.q": 1.0 for k in (10, 9, 2, 11, 1)})
    assert layers(TopK(3)(tied)) == [1, 2, 9]
    assert [s.module for s in tied.ranked()][-1] == "layers.11.q"


@pytest.mark.parametrize("k", [-1, 6])
def test_a_k_that_cannot_be_exact_is_refused(k):
    with pytest.raises(ParameterError):
        TopK(k)(numbered(1, 2, 3, 4, 5))


@pytest.mark.parametrize(
    ("fraction", "count", "expected"),
    [(0, 30, 0), (0.1, 30, 3), (0.1, 31, 4), (0.07, 100, 7), (0.29, 100, 29), (1, 30, 30)],
)
def test_a_fraction_is_rounded_up_but_not_by_floating_point(fraction, count, expected):
    assert len(Fraction(fraction)(numbered(*range(count)))) == expected


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction):
    with pytest.raises(ParameterError):
        Fraction(fraction)(numbered(1, 2))


def test_a_threshold_is_reached_from_the_end_that_matters():
    assert layers(Threshold(2)(numbered(1, 2, 3))) == [1, 2]
    assert layers(Threshold(2)(numbered(1, 2, 3, unsafe="low"))) == [0, 1]


def test_outliers_by_hand():
    values = [1, 2, 3, 4, 5, 100]  # median 3.5, MAD 1.5
    z = (100 - 3.5) / (1.4826 * 1.5)
    found = numbered(*values)
    assert robust_z(found)[ModuleName("layers.5.q")] == pytest.approx(z)
    assert layers(Outliers(z - 0.01)(found)) == [5]
    assert Outliers(z + 0.01)(found) == ()
    assert layers(Outliers(z - 0.01)(numbered(*[-v for v in values], unsafe="low"))) == [5]


def test_no_spread_has_no_outliers():
    assert Outliers(0)(numbered(1, 1, 1, 1, 9)) == ()
    assert Outliers(0)(numbered()) == ()


def test_names_may_be_skipped_modules_but_must_exist():
    found = table({"layers.0.q": 1.0, "layers.1.q": 2.0}, skipped=["layers.2.q"])
    assert Named(("layers.2.q", "layers.0.q"))(found) == ("layers.0.q", "layers.2.q")
    with pytest.raises(ParameterError) as caught:
        Named(("layers.0.k",))(found)
    assert "layers.0.q" in caught.value.hint


def test_a_layer_scores_the_mean_of_its_modules():
    found = table(
        {
            "model.layers.0.q": 9.0,
            "model.layers.0.k": 0.0,
            "model.layers.1.q": 5.0,
            "model.layers.1.k": 5.0,
            "lm_head": 4.6,
        }
    )
    assert ByLayer(TopK(1))(found) == ("model.layers.1.q", "model.layers.1.k")[::-1]
    assert set(ByLayer(TopK(2))(found)) == {"model.layers.1.q", "model.layers.1.k", "lm_head"}
    assert ByLayer(TopK(2)).params == {"k": 2, "granularity": "layer"}


def test_among_leaves_other_projections_alone():
    found = table(
        {f"layers.{n}.{p}": float(10 * "qkvo".index(p) + n) for n in range(4) for p in "qkvo"}
    )
    few = Among(("q", "k"), TopK(3))
    assert few(found) == ("layers.1.k", "layers.2.k", "layers.3.k")
    assert Among(("q",), Fraction(0.5))(found) == ("layers.2.q", "layers.3.q")
    assert Among(("q", "v"), ByLayer(TopK(1)))(found) == ("layers.3.q", "layers.3.v")
    assert (few.name, few.params) == ("top-k", {"k": 3, "among": ["q", "k"]})


@pytest.mark.parametrize("projections", [("x",), (), ("layers",)])
def test_among_projections_that_are_not_there_is_refused(projections):
    with pytest.raises(ParameterError, match="no scored module is of") as caught:
        Among(projections, TopK(1))(table({"layers.0.q": 1.0, "layers.0.v": 2.0}))
    assert caught.value.hint == "the adapter has q, v"


def test_a_projection_is_the_last_part_of_a_name():
    assert [projection_of(name) for name in ("model.layers.3.mlp.up_proj", "lm_head")] == [
        "up_proj",
        "lm_head",
    ]


@pytest.mark.parametrize(("count", "k"), [(128, 10), (210, 17), (1, 1), (13, 2), (224, 18)])
def test_the_default_is_ten_of_128_rounded_up(count, k):
    assert default_policy(numbered(*range(count))).params == {"k": k}


def test_the_default_by_layer_counts_layers():
    found = table({f"layers.{n}.{p}": float(n) for n in range(30) for p in "qkvo"})
    assert default_policy(found, by_layer=True).params == {"k": 3, "granularity": "layer"}


@pytest.mark.parametrize("seed", range(5))
def test_every_policy_answers_in_natural_order(seed):
    rng = np.random.default_rng(seed)
    found = table({f"layers.{k}.q": float(rng.integers(4)) for k in rng.permutation(20)})
    for policy in (
        TopK(7),
        Fraction(0.4),
        Threshold(2),
        Outliers(0.1),
        ByLayer(TopK(7)),
        Among(("q",), TopK(7)),
    ):
        chosen = policy(found)
        assert list(chosen) == sorted(chosen, key=natural_key)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.self_attn.q_proj", "model.layers.3"),
        ("model.layers.12.mlp.experts.7.w1", "model.layers.12"),
        ("model.layers.0.mlp.experts.down_proj[3]", "model.layers.0"),
        ("vision.blocks.1.attn.2.q", "vision.blocks.1"),
        ("0.q", "0"),
        ("lm_head", "lm_head"),
    ],
)
def test_the_layer_of_a_name(name, layer):
    assert layer_of(name) == layer


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        (1e308, -1e308, 5e-324),
        (1e308, -1e308, 5e-324, 0.0, 5e-324, 0.0, 0.0),
        (1e308, 0.0, 5e-324, 1e-323, -5e-324),
        (1e200, 0.0, 1e-200, 2e-200, 3e-200),
        (1.7e308, -1.7e308, 1.7e308, -1.7e308),
    ],
)
def test_a_deviation_is_finite_whatever_the_scores_are(values):
    z = robust_z(numbered(*values))
    assert all(math.isfinite(value) for value in z.values())
    assert len(z) in (0, len(values))
