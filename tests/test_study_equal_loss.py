"""Refusal at equal loss, on a study of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from s3lora.lab.study.bootstrap import Bootstrap
from s3lora.lab.study.equal_loss import NO_PRICE, OUTSIDE, gaps, interpolated, prices
from s3lora.lab.study.equal_loss_page import equal_loss_page
from s3lora.lab.study.rows import Row

FEW = Bootstrap(200)
TOKENS = (10, 20, 30)
CURVE = {"tuned": (0.0, 1.0, -4.0), 0.1: (0.1, 1.2, -3.0), 0.2: (0.2, 1.6, -2.0)}
"""Share, loss and refusal log-odds of random choices: at a loss of 1.4 they have -2.5."""


def row(method, share, loss, refusal, draw=None, adapter="a", edit="drop"):
    what = {"edit": edit, "share": share, "k": round(10 * share), "modules": 10, "chosen": ()}
    odds = (refusal - 1.0, refusal, refusal + 1.0)
    figures = {"log_odds": odds, "margins": odds, "losses": (loss,) * 3, "tokens": TOKENS}
    return Row(adapter, method, draw=draw, norm_share=0.1, **what, **figures)


def study(*choices, aligned=2.0, adapter="a"):
    """Every module in place, two draws at two shares whose mean is the curve, the aligned model."""
    rows = [row("tuned", *CURVE["tuned"], adapter=adapter)]
    for share in (0.1, 0.2):
        _, loss, refusal = CURVE[share]
        for draw, by in enumerate((-0.1, 0.1)):
            rows.append(row("random", share, loss + by, refusal + by, draw, adapter))
    rows.append(row("aligned", 1.0, aligned, 0.0, adapter=adapter))
    return [*rows, *choices]


def test_a_choice_is_held_against_random_ones_that_cost_as_much():
    chosen = row("own", 0.2, 1.4, -2.0)  # as good as random at 20 %, for half of the loss
    (told,) = gaps(study(chosen), FEW)
    assert (told.adapter, told.method, told.share, told.k) == ("a", "own", 0.2, 2)
    assert told.gap.value == pytest.approx(0.5)
    assert (told.gap.low, told.gap.high) == pytest.approx((0.5, 0.5))  # alike on all prompts


def test_a_smaller_dose_is_compared_at_its_own_loss():
    halved = row("own, halved", 0.2, 1.2, -2.75, edit="scale")  # less than dropping as many, at -2
    (told,) = gaps(study(halved), FEW)
    assert told.gap.value == pytest.approx(0.25)


def test_beyond_what_random_choices_cost_nothing_is_made_up():
    (told,) = gaps(study(row("own", 0.2, 1.7, -1.0)), FEW)
    assert told.gap.value is None
    assert told.gap.note == OUTSIDE


@pytest.mark.parametrize("aligned", [1.0, 0.8])
def test_without_loss_to_trade_nothing_is_compared(aligned):
    rows = study(row("own", 0.2, 1.4, -2.0), aligned=aligned)
    (price,) = prices(rows, FEW)
    assert price.learned.value == pytest.approx(aligned - 1)
    assert price.shares == ()
    (told,) = gaps(rows, FEW)
    assert (told.gap.value, told.gap.note) == (None, NO_PRICE)
    page = equal_loss_page(rows, FEW)
    assert "| a " in page
    assert "## a:" not in page


def test_a_price_that_is_noise_is_no_price():
    rows = study(row("own", 0.2, 1.4, -2.0))
    noisy = [
        row(one.method, one.share, 0, one.log_odds[1], one.draw) if one.method != "random" else one
        for one in rows
    ]
    assert prices(noisy, FEW)[0].shares == ()  # aligned has the loss of tuned


def test_what_there_is_to_trade_is_counted_in_held_out_rows():
    (price,) = prices(study(), FEW)
    assert price.learned.value == pytest.approx(1)
    assert price.learned.n == 3
    assert {share: cost.value for share, cost in price.random.items()} == pytest.approx(
        {0.1: 0.2, 0.2: 0.6}
    )
    assert price.shares == (0.1, 0.2)


def test_the_page_has_a_table_for_each_adapter_that_can_be_judged():
    rows = study(row("own", 0.2, 1.4, -2.0))
    page = equal_loss_page(rows, FEW)
    (line,) = [line for line in page.splitlines() if line.startswith("| own")]
    assert line.split("|")[2].strip() == "–"
    assert line.split("|")[3].strip() == "+0.50 [+0.50, +0.50]"
    assert "Nothing measured yet." in equal_loss_page((), FEW)


def test_the_line_is_numpys_and_ends_where_the_points_do():
    x = np.array([[3.0, 1.0, 2.0]] * 4)
    y = np.array([[5.0, 0.0, 1.0]] * 4)
    at = np.array([0.9, 1.0, 2.5, 3.1])
    told = interpolated(x, y, at)
    assert np.isnan(told[[0, 3]]).all()
    assert told[1:3] == pytest.approx(np.interp(at[1:3], [1, 2, 3], [0, 1, 5]))
