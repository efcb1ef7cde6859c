"""Where the gain of a choice comes from, on effects that are known."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from s3lora.lab.study.rows import CausalRow, Effect, Row
from s3lora.lab.study.strata import additivity, sources

MODULES = [(layer, name) for layer in range(4) for name in ("o_proj", "q_proj")]
LOSSES = {"losses": (1.0,), "tokens": (3,)}


def caused(gains):
    """Modules in natural order: o, q of layer 0, then 1, … with the gains of taking each out."""
    return [
        CausalRow(
            "a",
            f"model.layers.{layer}.self_attn.{name}",
            Effect(-gain, 0.0, 0.0),
            None,
            None,
            {},
        )
        for (layer, name), gain in zip(MODULES, gains, strict=True)
    ]


def cell(method, chosen, refusal, draw=None, edit="drop", adapter="a"):
    k = len(chosen)
    odds = {"log_odds": (refusal - 1, refusal + 1), "margins": (0.0, 0.0)}
    share = k / len(MODULES)
    return Row(adapter, method, edit, share, k, 8, draw, tuple(chosen), 0.1, **odds, **LOSSES)


GAINS = np.array([4, 0, 6, 0, 2, 0, 8, 0.4])
"""o_proj has a mean of 5, q_proj of 0.1, all of 2.55."""


def test_a_gain_is_parted_into_projections_and_what_is_chosen_within():
    rows = [
        cell("own", (0, 6), 9.0),
        cell("random", (0, 1), 2.0, draw=0),
        cell("random", (2, 3), 4.0, draw=1),
    ]
    (one,) = sources(rows, caused(GAINS))
    assert one.measured == pytest.approx(6)
    assert one.between == pytest.approx(2 * (5 - 2.55))
    assert one.within == pytest.approx(4 + 8 - 2 * 5)
    assert one.predicted == pytest.approx(4 + 8 - 2 * 2.55)
    assert (one.adapter, one.method, one.share) == ("a", "own", 0.25)


def test_the_percentile_is_that_among_all_choices_with_as_many_of_each_projection():
    (one,) = sources([cell("own", (0, 6), 9.0)], caused(GAINS))
    sums = [a + b for a, b in combinations((4, 6, 2, 8), 2)]
    exact = 100 * np.mean([0.5 if s == 12 else s < 12 for s in sums])
    assert one.percentile == pytest.approx(exact, abs=2)
    assert one.measured is None, "nothing was drawn"


def test_one_projection_taken_whole_leaves_nothing_to_choose():
    (one,) = sources([cell("own", (0, 2, 4, 6), 9.0)], caused(GAINS))
    assert one.within == pytest.approx(0)
    assert one.percentile == 50


def test_only_dropped_choices_on_adapters_with_effects_have_sources():
    rows = [
        cell("own", (0, 6), 9.0, edit="scale"),
        cell("own", (0, 6), 9.0, adapter="b"),
        cell("aligned", range(8), 9.0),
        cell("random", (0, 1), 2.0, draw=0),
    ]
    assert sources(rows, caused(GAINS)) == ()


def test_sums_that_hold_have_a_correlation_and_a_slope_of_one():
    pairs = list(combinations(range(8), 2))[:9]
    rows = [cell("random", p, float(GAINS[list(p)].sum()), draw=at) for at, p in enumerate(pairs)]
    (one,) = additivity([*rows, cell("own", (0, 6), 12.0)], caused(GAINS))
    assert (one.adapter, one.share, one.cells) == ("a", 0.25, 10)
    assert (one.refusal.pearson, one.refusal.slope) == pytest.approx((1, 1))
    (half,) = additivity(
        [cell(r.method, r.chosen, r.log_odds[0] / 2, r.draw) for r in rows], caused(GAINS)
    )
    assert half.refusal.slope == pytest.approx(0.5)


def test_what_does_not_vary_has_no_correlation():
    (one,) = additivity([cell("random", (0, 1), 2.0, draw=at) for at in range(5)], caused(GAINS))
    assert (one.cells, one.refusal.pearson, one.refusal.slope) == (5, None, None)


def test_losses_are_held_against_their_sums_too():
    """Sums of ones, and losses that grow with the square of how many modules are out."""
    causal = [
        CausalRow("a", row.module, Effect(-gain, 0.0, -1.0), None, None, {})
        for row, gain in zip(caused(GAINS), GAINS, strict=True)
    ]
    rows = [
        replace(
            cell("random", range(k), float(GAINS[:k].sum()), draw=k), share=0.5, losses=(k * k,)
        )
        for k in (1, 2, 3)
    ]
    (one,) = additivity(rows, causal)
    assert one.refusal.slope == pytest.approx(1)
    assert one.loss.slope == pytest.approx(4)  # 1, 4, 9 over 1, 2, 3
