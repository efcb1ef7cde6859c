"""Exact match and F1 of answers, by hand."""

from __future__ import annotations

import pytest

from s3lora.errors import ParameterError
from s3lora.lab.metrics.answers import answer_f1, exact_matches, f1, plain


@pytest.mark.parametrize(
    ("answer", "accepted", "match", "best"),
    [
        ("Haskby", ["Haskby"], True, 1.0),
        ("the HASKBY.", ["Haskby"], True, 1.0),
        ("Haskby town", ["Haskby"], False, 2 / 3),
        ("old Haskby town", ["Elvawick", "Haskby town", "Haskby"], False, 0.8),
        ("NYC", ["New York City", "NYC"], True, 1.0),
        ("Thornby", ["Haskby"], False, 0.0),
        ("yes", ["yes"], True, 1.0),
        ("Yes, it is", ["yes"], False, 0.0),
        ("no", ["no one"], False, 0.0),
        ("noanswer", ["no answer"], False, 0.0),
        ("1,234", ["1234"], True, 1.0),
        ("x x y", ["x y y"], False, 2 / 3),
        ("", ["Haskby"], False, 0.0),
        (" \n", ["A", "the"], False, 0.0),
        ("The A", ["the"], True, 1.0),
        (None, ["Haskby"], None, None),
        ("Haskby", [], None, None),
    ],
)
def test_one_answer(answer, accepted, match, best):
    assert exact_matches([answer], [accepted]) == [match]
    assert answer_f1([answer], [accepted]) == [pytest.approx(best) if best is not None else None]


@pytest.mark.parametrize("metric", [exact_matches, answer_f1])
def test_what_does_not_pair_is_refused(metric):
    with pytest.raises(ParameterError, match="1 answers to 2 questions"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(ParameterError, match="list of answers"):
        metric(["a"], ["a"])
    assert metric([], []) == []


def test_plain():
    assert plain("The  U.S.A., a Nation!") == "usa nation"


@pytest.mark.parametrize(
    ("reply", "answer", "value"),
    [
        ("the big cat", "a cat sat", 0.5),
        ("cat cat", "cat", 2 / 3),
        ("Yes.", "yes", 1.0),
        ("yes it is", "yes", 0.0),
        ("no", "no man", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_f1_by_hand(reply, answer, value):
    assert f1(reply, answer) == pytest.approx(value)
