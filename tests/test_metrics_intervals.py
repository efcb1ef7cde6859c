import math

import numpy as np
import pytest

from s3lora.errors import ParameterError
from s3lora.lab.metrics import intervals
from s3lora.lab.metrics.intervals import Figure, mean, paired_difference, share, wilson

NAN = float("nan")


def test_wilson_of_8_in_10_as_worked_by_hand():
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)


def test_wilson_at_the_ends():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10) == (0.0, pytest.approx(0.277533, abs=1e-6))  # z²/(n + z²)
    assert wilson(10, 10) == (pytest.approx(1 - 0.277533, abs=1e-6), 1.0)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (1, 0)])
def test_wilson_refuses_impossible_counts(hits, n):
    with pytest.raises(ParameterError):
        wilson(hits, n)


def test_share():
    figure = share("x", [True] * 8 + [False] * 2, "higher")
    assert (figure.value, figure.n, figure.note) == (0.8, 10, "")
    assert (figure.low, figure.high) == wilson(8, 10)


def test_unscored_flags_are_neither_hits_nor_misses():
    figure = share("x", [True, None, False, NAN, None, np.float64(1.0), np.bool_(False)], "higher")
    assert (figure.value, figure.n, figure.note) == (0.5, 4, "3 unscored")


@pytest.mark.parametrize(
    ("flags", "note"), [([], "no samples"), ([None, NAN], "2 unscored"), ([None], "1 unscored")]
)
def test_nothing_scored_is_no_value(flags, note):
    for figure in (share("x", flags, "lower"), mean("x", flags, "lower")):
        assert (figure.value, figure.n, figure.low, figure.high) == (None, 0, None, None)
        assert figure.note == note


def test_a_share_of_scores_is_refused():
    with pytest.raises(ParameterError):
        share("x", [0.5], "higher")


def test_mean_and_its_interval():
    values = np.random.default_rng(3).normal(5, 2, 400)
    figure = mean("x", values.tolist(), "higher", "s")
    half = 1.96 * values.std() / math.sqrt(400)
    assert figure.value == pytest.approx(values.mean())
    assert (figure.low, figure.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )
    assert mean("x", values.tolist(), "higher", "s") == figure  # seeded


def test_the_interval_does_not_depend_on_the_block(monkeypatch):
    values = [0.0, 1.0, 5.0, 2.0]
    whole = mean("x", values, "higher")
    monkeypatch.setattr(intervals, "BLOCK", 40)
    assert mean("x", values, "higher") == whole


def test_one_value_has_no_interval():
    assert mean("x", [2.0, NAN], "higher") == Figure(
        "x", 2.0, 1, None, None, "", "higher", "1 unscored"
    )


def test_an_infinite_value_is_refused():
    with pytest.raises(ParameterError):
        mean("x", [1.0, math.inf], "higher")


def test_difference_of_constants_is_exact():
    figure = paired_difference("x", [3, 3, 3], [1, 1, 1], "lower")
    assert (figure.value, figure.low, figure.high, figure.n) == (2.0, 2.0, 2.0, 3)


def test_difference_is_paired_by_prompt():
    a = np.random.default_rng(0).normal(0, 100, 50)
    figure = paired_difference("x", (a + 1).tolist(), a.tolist(), "higher")
    assert figure.low == pytest.approx(1)
    assert figure.high == pytest.approx(1)


def test_a_pair_with_one_unscored_side_is_left_out():
    figure = paired_difference("x", [1, NAN, 3, 9], [0, 5, 1, None], "higher")
    assert (figure.value, figure.n, figure.note) == (1.5, 2, "2 unscored")
    assert paired_difference("x", [None], [1], "higher").note == "1 unscored"


def test_what_does_not_pair_is_refused():
    with pytest.raises(ParameterError):
        paired_difference("x", [1, 2], [1], "higher")
