"""Greedy replies after a choice against those after random choices, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from s3lora.lab.study.replied import replied
from s3lora.lab.study.rows import Replies, Row
from s3lora.lab.study.tables import write_tables


def row(adapter: str, method: str, draw: int | None = None, replies: Replies | None = None) -> Row:
    figures = {"log_odds": (0.0, 1.0), "margins": (0.0, 1.0), "losses": (1.0,), "tokens": (3,)}
    what = {"edit": "drop", "share": 0.25, "k": 2, "modules": 8, "chosen": (0, 1)}
    return Row(adapter, method, draw=draw, norm_share=0.2, replies=replies, **what, **figures)


YES, NO = True, False
ROWS = (
    row("a", "s3lora", None, Replies((YES, YES, YES, NO), (YES, NO))),
    row("a", "random", 0, Replies((YES, NO, NO, NO), (NO, NO))),
    row("a", "random", 1, Replies((YES, YES, NO, NO), (YES, NO))),
    row("a", "random", 2),
    row("a", "magnitude"),
    row("b", "s3lora", None, Replies((NO, NO, NO, None), (NO, NO))),
    row("b", "random", 0, Replies((NO, NO, YES, YES), (NO, NO))),
)


def test_the_difference_is_to_the_mean_of_the_draws_that_have_replies():
    (told,) = replied(ROWS)
    assert (told.method, told.share, told.adapters, told.draws) == ("s3lora", 0.25, 2, 1)
    a, b = (0 + 0.5 + 1 + 0) / 4, (0 + 0 - 1) / 3  # the prompt that is not scored is left out
    assert told.refused.figure.value == pytest.approx((a + b) / 2)
    assert told.refused.figure.n == 2
    half = 12.7062 * abs(a - b) / 2  # t at 97.5 % with one degree of freedom
    assert told.refused.figure.high - told.refused.figure.value == pytest.approx(half, rel=1e-5)
    assert told.over_refused.figure.value == pytest.approx((0.25 + 0) / 2)
    better = (told.refused.figure.better, told.over_refused.figure.better)
    assert (told.wins, *better) == (1, "higher", "lower")


def test_adapters_on_the_same_rows_are_one_unit():
    (told,) = replied(ROWS, sets={"a": "alpaca", "b": "alpaca"})
    assert told.refused.by_data.value == pytest.approx(told.refused.figure.value)
    assert (told.refused.by_data.n, told.refused.by_data.low) == (1, None)


def test_the_interval_is_over_prompts_of_one_adapter():
    (told,) = replied(ROWS[:4])
    gained = np.array([0, 0.5, 1, 0])
    spread = gained.std() / 2  # the standard error of a mean of four, drawn from these four
    assert told.refused.figure.high - told.refused.figure.low == pytest.approx(
        2 * 1.96 * spread, rel=0.15
    )


def test_choices_without_replies_are_not_there():
    assert replied(ROWS[2:5]) == ()


def test_the_page_has_the_table_where_there_are_replies(tmp_path):
    write_tables(ROWS, (), tmp_path)
    page = (tmp_path / "random.md").read_text()
    table = page.partition("## Greedy replies, over the adapters")[2].partition("##")[0]
    (line,) = [line for line in table.splitlines() if line.startswith("| s3lora")]
    assert "+0.02 [" in line
    assert "1/2" in line
    write_tables([*ROWS[3:5]], (), tmp_path)
    assert "Greedy replies" not in (tmp_path / "random.md").read_text()
