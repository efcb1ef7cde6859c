"""Student's t over adapters: by hand, in a simulation, and against the bootstrap before it."""

from __future__ import annotations

import numpy as np
import pytest

from s3lora.lab.study.config import read_study
from s3lora.lab.study.units import (
    data_sets,
    difference_of,
    mean_of,
    over_data_sets,
    t_interval,
)


def test_the_interval_is_that_worked_out_by_hand():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    # mean 4, sample variance 40 / 5 = 8, standard error sqrt(8 / 6), t(5) at 97.5 % is 2.570582
    half = 2.570582 * (8 / 6) ** 0.5
    assert t_interval(values) == pytest.approx((4 - half, 4 + half), rel=1e-6)


def test_one_value_has_no_interval():
    assert t_interval(np.array([3.0])) == (None, None)
    told = mean_of("gain", [3.0], "nats", "higher")
    assert (told.value, told.n, told.low, told.high) == (3.0, 1, None, None)


def test_six_normal_values_are_covered_in_95_of_100_cases():
    """And a percentile bootstrap over six covers the mean in less than 90."""
    random = np.random.default_rng(0)
    samples = random.normal(size=(4000, 6))
    ends = np.array([t_interval(values) for values in samples])
    covered = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    assert covered == pytest.approx(0.95, abs=0.011)  # three standard errors of a share of 4000
    drawn = samples[:1000, random.integers(6, size=(500, 6))].mean(axis=2)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.9


def test_adapters_on_the_same_rows_count_once_with_their_mean():
    values = {"a": 1.0, "b": 3.0, "c": 5.0, "d": 8.0}
    told = over_data_sets("gain", values, {"a": "alpaca", "b": "alpaca"}, "nats", "higher")
    assert (told.value, told.n) == (pytest.approx((2 + 5 + 8) / 3), 3)
    assert told.high - told.value == pytest.approx(4.302653 * 3 / 3**0.5)  # 2, 5, 8: sd 3
    one = over_data_sets("gain", values, dict.fromkeys(values, "alpaca"), "nats", "higher")
    assert (one.value, one.n, one.low) == (4.25, 1, None)


def test_on_one_adapter_the_interval_is_over_its_prompts():
    resampled = np.array([0.5, *np.linspace(0, 1, 1001)])
    told = difference_of("gain", {"a": resampled}, 40, "nats", "higher", {})
    assert (told.figure.value, told.figure.n, told.by_data) == (0.5, 40, None)
    assert (told.figure.low, told.figure.high) == pytest.approx((0.025, 0.975))


STUDY = """
[study]
model = "random"

[[adapter]]
name = "one"
recipe = "harmless"

[[adapter]]
name = "other"
recipe = "mixed"

[[adapter]]
name = "plans"
recipe = "planner"
"""


def test_recipes_that_draw_from_one_pool_are_one_data_set(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    sets = data_sets(read_study(tmp_path / "study.toml").adapters)
    assert sets == {"one": "harmless rows", "other": "harmless rows", "plans": "planner"}
