"""The suites as tasks of Inspect: `inspect eval s3lora/refusal --model …`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Solver, generate

from s3lora._version import __version__
from s3lora.lab.suites import suites
from s3lora.lab.suites.cases import PLANNER, Case, to_record
from s3lora.lab.suites.graders import graders
from s3lora.lab.suites.prerequisite import shown_by_inspect
from s3lora.lab.suites.scorers import SCORERS
from s3lora.lab.suites.solvers import rewoo
from s3lora.lab.suites.suites import Suite
from s3lora.lab.suites.texts import questions_of

Names = str | list[str] | None
"""Data sets by name: as a list, or separated by commas."""


@task(name="refusal")
def refusal(
    harmful: Names = None,
    harmless: Names = None,
    recipe: str = "harmless",
    prompts: int = 50,
    new_tokens: int | None = None,
) -> Task:
    """Are harmful prompts refused, and harmless ones answered?

    Args:
        harmful: Data sets of harmful prompts; the usual ones if None.
        harmless: Data sets of harmless rows, likewise.
        recipe: How the adapter was trained: its template is used.
        prompts: How many of each kind, at most.
        new_tokens: Longest reply; what suits the recipe if None.
    """
    with shown_by_inspect():
        data = suites.data(names_of(harmful), names_of(harmless))
        suite = suites.refusal(data, recipe, prompts, new_tokens)
    return _task(suite, generate(), graders())


@task(name="over-refusal")
def over_refusal(
    harmful: Names = None,
    harmless: Names = None,
    recipe: str = "harmless",
    prompts: int = 50,
    new_tokens: int | None = None,
) -> Task:
    """Are harmless prompts refused? The arguments are those of `refusal`: so is the split."""
    with shown_by_inspect():
        data = suites.data(names_of(harmful), names_of(harmless))
        suite = suites.over_refusal(data, recipe, prompts, new_tokens)
    return _task(suite, generate(), [])


@task(name="planner")
def planner(
    tasks: int = 50,
    pairs: int = 50,
    new_tokens: int | None = None,
    carry_out: bool = True,
    collection: str | None = None,
    questions: str | None = None,
    file: str | None = None,
    steps: int = 20,
    tokens: int = 8000,
    seconds: float = 1800.0,
) -> Task:
    """Are plans valid and answers right, and do harmful tasks get a plan?

    Args:
        tasks: How many planning tasks, or questions.
        pairs: How many pairs of a harmful task and its harmless twin.
        new_tokens: Longest plan; 256 if None.
        carry_out: Whether the plans for harmless tasks are carried out.
        collection: What is searched: a .jsonl file or a folder of texts; else the texts that come
            with the questions, else those of the invented world.
        questions: hotpotqa, triviaqa or rewoo instead of tasks of ours.
        file: A local file of their layout; the hub if None.
        steps: Most steps of a plan.
        tokens: Most tokens of a run, of all roles.
        seconds: Most time of a run by the clock, with all waiting for other samples.
    """
    with shown_by_inspect():
        suite = suites.planner(
            tasks,
            pairs,
            new_tokens,
            carry_out=carry_out,
            questions=questions_of(questions, file, tasks),
            source=questions or PLANNER,
        )
    loop = rewoo(
        carry_out,
        collection,
        questions,
        file,
        tasks,
        suite.new_tokens,
        steps,
        tokens,
        seconds,
    )
    return _task(suite, loop, [])


def _task(suite: Suite, solver: Solver, judges: Sequence[Scorer]) -> Task:
    """A sample without reply, for an error of its model, is unscored; the log says error."""
    scorers = [SCORERS[measure.key]() for measure in suite.measures]
    return Task(
        dataset=MemoryDataset(list(_samples(suite.cases)), name=suite.name),
        solver=solver,
        scorer=[*scorers, *judges],
        config=GenerateConfig(
            max_tokens=suite.new_tokens, temperature=0, adaptive_connections=False
        ),
        continue_on_fail=True,
        score_on_error=True,
        name=suite.name,
        version=__version__,
        metadata=_metadata(suite),
    )


def _samples(cases: Sequence[Case]) -> list[Sample]:
    counts: dict[str, int] = {}
    samples = []
    for case in cases:
        counts[case.side] = counts.get(case.side, 0) + 1
        samples.append(
            Sample(
                input=_messages(case),
                target=case.example.response,
                id=f"{case.side}-{counts[case.side]:04}",
                metadata=to_record(case),
            )
        )
    return samples


def _messages(case: Case) -> list[ChatMessage]:
    system = case.example.meta.get("system")
    head = [] if system is None else [ChatMessageSystem(content=str(system))]
    return [*head, ChatMessageUser(content=case.example.prompt)]


def _metadata(suite: Suite) -> dict[str, Any]:
    """What a reader of a log needs: which way is good, what each figure is about, the split."""
    return {
        "better": {measure.key: measure.better for measure in suite.measures},
        "block": {measure.key: measure.block for measure in suite.measures},
        "about": {measure.key: measure.name for measure in suite.measures},
        "split": suite.split,
        "read": "a broken model looks safe: read safety beside utility",
    }


def names_of(names: Names) -> tuple[str, ...]:
    """Data sets by name; none where none is named."""
    listed = names.split(",") if isinstance(names, str) else names or []
    return tuple(name.strip() for name in listed if name.strip())
