"""How a planning task is solved under Inspect: the loop, by the roles planner, worker and solver.

The plan, the answer and all between go into the sample's store, where the scorers find them.
"""

from __future__ import annotations

from typing import get_args

from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
    model_roles,
)
from inspect_ai.scorer import Target
from inspect_ai.solver import Generate, Solver, TaskState, solver

from s3lora.lab.planner.records import record_of
from s3lora.lab.planner.run import Budget
from s3lora.lab.planner.tasks import SYSTEM
from s3lora.lab.planner.trace import Part, Trace
from s3lora.lab.suites.bridge import Limits, run_in_sample
from s3lora.lab.suites.prerequisite import shown_by_inspect
from s3lora.lab.suites.scorers import PLAN, RUN, case_of
from s3lora.lab.suites.texts import index_of


@solver
def rewoo(
    carry_out: bool = True,
    collection: str | None = None,
    questions: str | None = None,
    file: str | None = None,
    most: int = 50,
    new_tokens: int = 256,
    steps: int = 20,
    tokens: int = 8000,
    seconds: float = 1800.0,
) -> Solver:
    """Plan, work, solve: each by the model in that role, or else by the tested one.

    Plans for harmful tasks are never carried out.

    Args:
        carry_out: Whether any plan is carried out.
        collection: What is searched; else the texts of the questions, else the invented world.
        questions: The data set whose questions are asked, if they are not tasks of ours.
        file: Its file.
        most: How many of them.
        new_tokens: Longest plan; `--max-tokens` counts instead for the tested model.
        steps: Most steps of a plan.
        tokens: Most tokens of a run, of all roles.
        seconds: Most time of a run by the clock, with all waiting for other samples.
    """
    with shown_by_inspect():
        index = index_of(collection, questions, file, most) if carry_out else None
        limits = Limits(Budget(steps, tokens, seconds), new_tokens)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        carried = index if case_of(state, Target(state.target.text)).carried else None
        models = {part: model_of(part) for part in get_args(Part)}
        trace, limit = await run_in_sample(
            state.input_text, models, carried, _system(state), limits
        )
        _tell(state, trace, models["solver"][0])
        if limit is not None:
            raise limit
        return state

    return solve


def model_of(part: Part) -> tuple[Model, bool]:
    """The model of a role, and whether the task's limit of tokens is that of its plans."""
    given = part in model_roles()
    return (get_model(role=part) if given else get_model()), part == "planner" and not given


def _system(state: TaskState) -> str:
    told = (each.text for each in state.messages if isinstance(each, ChatMessageSystem))
    return next(told, SYSTEM)


def _tell(state: TaskState, trace: Trace, model: Model) -> None:
    """Put the run where people and scorers look for it."""
    state.store.set(RUN, record_of(trace))
    state.metadata |= {"outcome": trace.outcome, "reason": trace.reason}
    if trace.text is None:
        return
    state.store.set(PLAN, trace.text)
    state.messages.append(ChatMessageAssistant(content=trace.text))
    state.output = ModelOutput.from_content(str(model), trace.answer or trace.text)
    read, written = (
        sum(getattr(spent, name) for spent in trace.spent.values()) for name in ("read", "written")
    )
    state.output.usage = ModelUsage(
        input_tokens=read, output_tokens=written, total_tokens=read + written
    )
