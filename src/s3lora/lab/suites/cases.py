"""What is asked: prompts with what is needed to score the replies, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from s3lora.errors import DataError, ParameterError
from s3lora.lab.data import Example
from s3lora.lab.planner.tasks import SYSTEM, PlanningTask, make_pairs, make_tasks
from s3lora.lab.questions import Question
from s3lora.lab.recipes import SEED, Pools, tested

Side = Literal["harmful", "harmless"]

PLANNER = "planner"
HARMFUL = ("advbench", "strongreject", "do-not-answer")
HARMLESS = ("alpaca",)
"""The data sets that are taken where none is named."""

TESTED = 200
"""Planning tasks of which the first are asked: so many are tested on where the data suffices."""

OURS = {"Wikipedia": "Search", "Google": "Search", "WolframAlpha": "Calculator"}
"""Which of our tools those of published gold plans are."""

TUPLES = ("tools", "entities")
"""Fields of a planning task that JSON turns into lists."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt."""

    example: Example
    """The prompt, the reference response where there is one, the system message in its meta."""
    side: Side
    task: PlanningTask | None = None
    """The planning task behind the prompt, if it is one."""
    accepted: tuple[str, ...] = ()
    """The answers that count as right."""
    carry_out: bool = False
    """Whether the plan for it is to be carried out; see `carried`."""

    @property
    def carried(self) -> bool:
        """Whether the plan is carried out: never that of a harmful task."""
        return self.carry_out and self.side == "harmless" and self.task is not None

    @property
    def twin(self) -> bool:
        """Whether it is the harmless one of a pair of planning tasks."""
        return self.side == "harmless" and self.task is not None and self.task.pair is not None


def cases_of(pools: Pools, recipe: str, count: int) -> tuple[list[Case], list[Case]]:
    """The first test prompts of each kind, harmful and harmless, in the template of a recipe.

    Args:
        pools: Only the test parts are touched.
        recipe: A name of `s3lora.lab.recipes.RECIPES`.
        count: How many of each kind, at most.

    Raises:
        DataError: if no harmless prompt has a response: safety is not told without utility.
        ParameterError: if `count` is less than 1.
    """
    refuse_none(count)
    harmful, harmless = (rows[:count] for rows in tested(recipe, pools))
    if not any(row.response for row in harmless):
        raise DataError(
            "no harmless test prompt has a response, so utility cannot be measured",
            hint="add rows with responses, such as --harmless alpaca",
        )
    tasks = _behind(pools, harmless) if recipe == PLANNER else [None] * len(harmless)
    return (
        [Case(row, "harmful") for row in harmful],
        [Case(row, "harmless", task) for row, task in zip(harmless, tasks, strict=True)],
    )


def _behind(pools: Pools, harmless: Sequence[Example]) -> list[PlanningTask]:
    """The tasks that `tested` made its rows of; it says of a row no more than question and plan."""
    made = make_tasks(len(pools.harmless.test), SEED, "test")
    by_question = {task.question: task for task in made}
    return [by_question[row.prompt] for row in harmless]


def planning_cases(tasks: int, pairs: int, *, carry_out: bool = False) -> list[Case]:
    """Planning tasks of the test part, then pairs of a harmful task and its harmless twin.

    Up to `TESTED` tasks are those that `s3lora eval --recipe planner` asks with the usual data.

    Args:
        tasks: How many tasks.
        pairs: How many pairs.
        carry_out: Whether the plans for harmless ones are to be carried out.

    Raises:
        ParameterError: if one of the numbers is less than 1, or more than the world holds.
    """
    refuse_none(tasks)
    made = make_tasks(max(tasks, TESTED), SEED, "test")[:tasks]
    alone = [planning_case(task, carry_out=carry_out) for task in made]
    return [*alone, *pair_cases(pairs, carry_out=carry_out)]


def pair_cases(pairs: int, *, carry_out: bool = False) -> list[Case]:
    """Pairs of a harmful task and its harmless twin.

    Raises:
        ParameterError: if there is less than 1, or more than the world holds.
    """
    refuse_none(pairs)
    return [planning_case(task, carry_out=carry_out) for task in make_pairs(pairs, SEED, "test")]


def planning_case(
    task: PlanningTask,
    *,
    carry_out: bool = False,
    answers: tuple[str, ...] = (),
    source: str = PLANNER,
) -> Case:
    """A planning task as a planner is asked it; its own answer is accepted where none is given."""
    meta = {"system": SYSTEM, "source": source}
    accepted = answers or ((task.answer,) if task.answer else ())
    return Case(Example(task.question, task.plan, meta), task.kind, task, accepted, carry_out)


def question_case(question: Question, source: str, *, carry_out: bool) -> Case:
    """A question of a published data set as a planner of ours is asked it.

    It is told of our tools, whatever the data set calls its own; those of a gold plan are taken
    for ours.
    """
    task = question.task()
    tools = tuple(OURS.get(tool, tool) for tool in task.tools)
    return planning_case(
        replace(task, tools=tools), carry_out=carry_out, answers=question.answers, source=source
    )


def refuse_none(count: int) -> None:
    """Refuse a number of prompts or tokens that asks nothing.

    Raises:
        ParameterError: if it is less than 1.
    """
    if count < 1:
        raise ParameterError("nothing to ask", hint="prompts and tokens are at least 1")


def to_record(case: Case) -> dict[str, Any]:
    """What a log keeps beside prompt and reference, so that replies can be scored from it again."""
    return {
        "side": case.side,
        "source": case.example.meta.get("source"),
        "task": asdict(case.task) if case.task else None,
        "accepted": list(case.accepted),
        "carry_out": case.carry_out,
    }


def from_record(prompt: str, response: str, record: dict[str, Any]) -> Case:
    """The case of which `to_record` made a record.

    Raises:
        DataError: if the record is of another kind of task.
    """
    try:
        told = record["task"]
        task = None if told is None else PlanningTask(**{**told, **_tuples(told)})
        accepted = tuple(record.get("accepted", ()))
        carry_out = bool(record.get("carry_out"))
        return Case(Example(prompt, response), record["side"], task, accepted, carry_out)
    except (KeyError, TypeError) as error:
        raise DataError(
            "a sample says nothing of harmful or harmless, or of its planning task",
            hint="score logs of the tasks refusal, over-refusal and planner of s3lora",
        ) from error


def _tuples(told: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(told[name]) for name in TUPLES}
