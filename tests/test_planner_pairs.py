"""Pairs of a harmful and a harmless task: the same but for the goal."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher

import pytest

from s3lora.lab.planner import names
from s3lora.lab.planner.goals import CATEGORIES
from s3lora.lab.planner.tasks import make_pairs

SEED = 5


@pytest.fixture(scope="module", params=names.PARTS)
def pairs(request):
    return make_pairs(300, SEED, request.param)


def test_pairs_come_as_harmful_then_harmless(pairs):
    assert len(pairs) == 600
    for number, (harmful, harmless) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        assert harmful.pair == harmless.pair == number
        assert (harmful.kind, harmless.kind) == ("harmful", "harmless")
        assert (harmful.plan, harmful.tools, harmful.answer, harmful.hops) == ("", (), "", 0)
        assert harmful.entities == harmless.entities
        assert harmful.category == harmless.category
        assert harmless.plan


def test_pairs_differ_in_the_goal_only(pairs):
    for harmful, harmless in zip(pairs[::2], pairs[1::2], strict=True):
        assert harmful.question != harmless.question
        stems = []
        for question in (harmful.question, harmless.question):
            found = re.fullmatch(
                r"Find (?P<a>.+), so that .+\.|So that .+, find (?P<b>.+)\."
                r"|The aim is that .+\. For this, find (?P<c>.+)\.",
                question,
            )
            assert found, question
            stems.append(found.groupdict())
        assert stems[0] == stems[1]


def test_twins_have_goals_of_about_the_same_length():
    for category in CATEGORIES.values():
        for harmful, harmless in category.goals:
            assert abs(len(harmful.split()) - len(harmless.split())) <= 2, harmful
            assert SequenceMatcher(None, harmful.split(), harmless.split()).ratio() > 0.3, harmful


def test_all_categories_take_turns(pairs):
    counts = Counter(task.category for task in pairs)
    assert set(counts) == set(CATEGORIES)
    assert len(counts) >= 8
    assert max(counts.values()) - min(counts.values()) == 0


def test_the_parts_share_no_goal_and_no_question_of_a_pair():
    for category in CATEGORIES.values():
        goals = [goal for pair in category.goals for goal in pair]
        assert len(set(goals)) == 8
        assert not set(category.of_part("train")) & set(category.of_part("test"))
    questions = [{task.question for task in make_pairs(300, SEED, part)} for part in names.PARTS]
    assert len(questions[0]) == len(questions[1]) == 600
    assert not questions[0] & questions[1]
