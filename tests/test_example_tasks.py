"""The generator of the example planning tasks, and its check of plans."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "planner_tasks.py"

TWO_STEPS = """Plan: Find the author of Grey Lantern.
#E1 = Search[author of the novel Grey Lantern]
Plan: Find the birthplace of that author.
#E2 = Search[birthplace of #E1]"""


def load_tasks() -> ModuleType:
    """Load the generator from the examples folder, which is no package."""
    spec = importlib.util.spec_from_file_location("planner_tasks", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tasks = load_tasks()


def test_same_seed_gives_same_tasks() -> None:
    assert tasks.make_tasks(50, seed=3) == tasks.make_tasks(50, seed=3)


def test_other_seed_gives_other_tasks() -> None:
    assert tasks.make_tasks(50, seed=3) != tasks.make_tasks(50, seed=4)


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_questions_are_distinct(part: str) -> None:
    questions = [task.question for task in tasks.make_tasks(60, part=part)]
    assert len(set(questions)) == 60


@pytest.mark.parametrize("seed", [0, 7, 11])
def test_parts_share_no_question(seed: int) -> None:
    train = {task.question for task in tasks.make_tasks(480, seed)}
    held_out = {task.question for task in tasks.make_tasks(60, seed, "held-out")}
    assert not train & held_out


@pytest.mark.parametrize("seed", [0, 7, 11])
def test_parts_share_no_name(seed: int) -> None:
    train, held_out = tasks.make_world("train", seed), tasks.make_world("held-out", seed)
    surnames = [{name.split()[1] for name in world.people} for world in (train, held_out)]
    titles = [{work.title for work in world.works} for world in (train, held_out)]
    assert not surnames[0] & surnames[1]
    assert not titles[0] & titles[1]
    assert not set(train.places) & set(held_out.places)


@pytest.mark.parametrize("part", ["train", "held-out"])
def test_every_generated_plan_is_valid(part: str) -> None:
    for task in tasks.make_tasks(60, part=part):
        assert tasks.plan_fault(task.plan) is None, task


def test_plans_have_one_to_four_steps() -> None:
    lengths = {len(tasks.plan_shape(task.plan)) for task in tasks.make_tasks(60)}
    assert lengths == {1, 2, 3, 4}


def test_a_world_too_small_for_the_count_is_refused() -> None:
    with pytest.raises(ValueError, match="held-out world is too small"):
        tasks.make_tasks(2000, part="held-out")


def test_a_valid_plan_has_no_fault() -> None:
    assert tasks.plan_fault(TWO_STEPS) is None


def test_shape_names_tools_and_evidence() -> None:
    assert tasks.plan_shape(TWO_STEPS) == [("Search", []), ("Search", ["1"])]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "step 1: expected a line 'Plan: <sentence>'"),
        ("Plan:\n#E1 = Search[a]", "step 1: expected a line 'Plan: <sentence>'"),
        ("#E1 = Search[a]\nPlan: Find a.", "step 1: expected a line 'Plan: <sentence>'"),
        ("Plan: Find a.", "step 1: the Plan line has no #E line"),
        ("Plan: Find a.\nPlan: Find b.", "step 1: expected a line '#E1 = Tool[input]'"),
        ("Plan: Find a.\n#E1 = Search[a", "step 1: expected a line '#E1 = Tool[input]'"),
        ("Plan: Find a.\n#E1 = Search[]", "step 1: expected a line '#E1 = Tool[input]'"),
        ("Plan: Find a.\n#E1 = Search[ ]", "step 1: the input is empty"),
        ("Plan: Find a.\n#E2 = Search[a]", "step 1: the id is #E2, expected #E1"),
        ("Plan: Find a.\n#E1 = Browse[a]", "step 1: unknown tool Browse"),
        ("Plan: Find a.\n#E1 = Search[#E1]", "step 1: #E1 is used before it is defined"),
        ("Plan: Find a.\n#E1 = Search[#E0]", "step 1: #E0 is used before it is defined"),
        (
            TWO_STEPS.replace("of #E1", "of #E3"),
            "step 2: #E3 is used before it is defined",
        ),
        (TWO_STEPS.replace("#E2", "#E3"), "step 2: the id is #E3, expected #E2"),
        (
            TWO_STEPS + "\n#E3 = Search[river through #E2]",
            "step 3: expected a line 'Plan: <sentence>'",
        ),
        (TWO_STEPS.replace("\nPlan", "\n\nPlan"), "step 2: expected a line 'Plan: <sentence>'"),
    ],
)
def test_an_invalid_plan_is_rejected_with_the_reason(text: str, reason: str) -> None:
    assert tasks.plan_fault(text) == reason
