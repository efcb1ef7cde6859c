"""The factored algebra against numpy on the formed update."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dense import lower_median
from s3lora.linalg import singular_values, spectrum_summary, thin_svd, weighted_median

pytestmark = pytest.mark.numerics

SHAPES = [(40, 30, 4), (30, 40, 4), (9, 200, 8), (200, 9, 8), (5, 6, 8), (64, 64, 1)]


def factors(m, n, r, seed=0, decay=0.0):
    rng = np.random.default_rng(seed)
    columns = 10.0 ** (-decay * np.arange(r))
    return rng.standard_normal((m, r)) * columns, rng.standard_normal((r, n))


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.5])
def test_thin_svd_is_that_of_the_formed_update(m, n, r, decay):
    B, A = factors(m, n, r, decay=decay)
    U, s, V = thin_svd(B, A)
    expected = np.linalg.svd(B @ A, compute_uv=False)
    assert s == pytest.approx(expected[: len(s)], rel=1e-9, abs=1e-12 * s[0])
    assert (expected[len(s) :] <= 1e-11 * s[0]).all()
    assert np.abs((U * s) @ V.T - B @ A).max() < 1e-12 * s[0]
    for Q in (U, V):
        assert np.abs(Q.T @ Q - np.eye(len(s))).max() < 1e-8


@pytest.mark.parametrize(("m", "n", "r"), SHAPES)
def test_singular_values_are_those_of_thin_svd(m, n, r):
    B, A = factors(m, n, r, decay=1.0)
    assert singular_values(B, A) == pytest.approx(thin_svd(B, A).s, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_no_scale_of_the_factors_overflows_or_vanishes(scale):
    B, A = factors(40, 30, 4)
    assert singular_values(B * scale, A) / scale == pytest.approx(singular_values(B, A), rel=1e-9)


def test_rank_deficient_factors_give_the_rank_of_the_update():
    B, A = factors(40, 30, 6)
    B[:, 3:] = B[:, :3] @ np.ones((3, 3))
    assert len(thin_svd(B, A).s) == 3
    assert len(singular_values(B, A)) == 3


@pytest.mark.parametrize("zero", ["A", "B"])
def test_a_zero_update_has_no_singular_values(zero):
    B, A = factors(8, 7, 3)
    (A if zero == "A" else B)[:] = 0
    assert [x.shape for x in thin_svd(B, A)] == [(8, 0), (0,), (7, 0)]
    assert singular_values(B, A).shape == (0,)


def test_spectrum_summary_by_hand():
    parts = spectrum_summary(np.array([4.0, 2.0, 2.0]))
    assert parts["sigma_1"] == 4
    assert parts["frobenius"] == pytest.approx(24**0.5)
    assert parts["plain_ssi"] == 0.5
    assert parts["stable_rank"] == pytest.approx(24 / 16)
    assert parts["effective_rank"] == pytest.approx(2**1.5)


@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(0, 10, allow_subnormal=False)
        ),
        min_size=1,
        max_size=300,
    ).filter(lambda pairs: sum(w for _, w in pairs) > 0)
)
@settings(max_examples=200, deadline=None)
def test_weighted_median_is_the_lower_one(pairs):
    x, w = np.array(pairs).T.copy()
    found = weighted_median(x, w)
    assert found in x
    slack = 1e-9 * w.sum()
    assert w[x < found - 1e-9 * abs(found)].sum() <= w.sum() / 2 + slack
    assert w[x <= found + 1e-9 * abs(found)].sum() >= w.sum() / 2 - slack


def test_weighted_median_of_even_weights_is_the_lower_middle():
    assert weighted_median(np.array([4.0, 1.0, 3.0, 2.0]), np.ones(4)) == 2.0


@pytest.mark.parametrize("m", [1, 2, 1000, 20_000])
def test_weighted_median_agrees_with_a_plain_one(m):
    rng = np.random.default_rng(m)
    x, w = rng.standard_cauchy(m), rng.random(m) + 1e-3
    assert weighted_median(x, w) == lower_median(x, w)
