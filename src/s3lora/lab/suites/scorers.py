"""The measures of the suites as scorers of Inspect, each with n and a 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan

from inspect_ai.scorer import (
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    Value,
    metric,
    scorer,
)
from inspect_ai.solver import TaskState

from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.planner.records import trace_in
from s3lora.lab.planner.trace import Trace
from s3lora.lab.suites.cases import Case, from_record
from s3lora.lab.suites.measures import Measure
from s3lora.lab.suites.runs import ALL

PLAN = "plan"
"""Where a solver leaves the plan that it wrote, in the store of a sample."""

RUN = "run"
"""Where it leaves what became of it, as `planner.records` writes it."""


@metric
def figure(key: str) -> Metric:
    """The figure of a measure: its value, how many replies it is made of, its interval."""
    measure = ALL[key]

    def compute(scores: list[SampleScore]) -> Value:
        return told(measure.figure([each.score.as_float() for each in scores]), measure.kind)

    return compute


def told(found: Figure, kind: str) -> dict[str, str | int | float | bool | None]:
    """A figure as Inspect's logs and viewer show it; without value, NaN."""
    value = nan if found.value is None else found.value
    return {kind: value, "n": found.n, "low": found.low, "high": found.high}


def _registered(measure: Measure) -> Callable[[], Scorer]:
    """The scorer of a measure, by its key."""

    @scorer(
        metrics=[figure(measure.key)], name=measure.key, about=measure.name, better=measure.better
    )
    def made() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score | None:
            case = case_of(state, target)
            if not measure.about(case):
                return None
            run = run_of(state)
            if measure.reads == "run":
                return scored_run(measure, case, run)
            return scored(measure, case, reply_of(state, case), run.reason if run else "")

        return score

    return made


SCORERS: Mapping[str, Callable[[], Scorer]] = {
    key: _registered(measure) for key, measure in ALL.items()
}


def case_of(state: TaskState, target: Target) -> Case:
    """What the sample asked."""
    return from_record(state.input_text, target.text, state.metadata)


def reply_of(state: TaskState, case: Case) -> str | None:
    """What is scored: of a planning task the plan, whatever a solver did with it afterwards.

    None where no model replied, such as after an error.
    """
    if case.task and state.store.get(RUN) is not None:
        return state.store.get(PLAN)
    if case.task and (plan := state.store.get(PLAN)) is not None:
        return str(plan)
    return state.output.completion if state.output.choices else None


def run_of(state: TaskState) -> Trace | None:
    """What became of the plan; None where no solver says.

    Raises:
        DataError: if what the store holds is no run.
    """
    record = state.store.get(RUN)
    return None if record is None else trace_in(record)


def scored_run(measure: Measure, case: Case, run: Trace | None) -> Score:
    """One value of a run, with how it ended; NaN where nobody can tell."""
    value = measure.values([run], [case])[0]
    words = f"{run.outcome}: {run.reason}" if run else "no run is in the sample's store"
    if value is None:
        return Score.unscored(reason="no_response", explanation=words)
    answer = run.answer if run and run.answer else None
    return Score(value=float(value), answer=answer, explanation=words)


def scored(measure: Measure, case: Case, reply: str | None, why: str = "") -> Score:
    """One value; NaN with the reason where there is none."""
    value = measure.values([reply], [case])[0]
    if value is None or value != value:  # NaN differs from itself
        return _unscored(reply, why)
    words = measure.explain(reply) if measure.explain and reply is not None else measure.name
    return Score(value=float(value), explanation=words)


def _unscored(reply: str | None, why: str) -> Score:
    if reply is None:
        return Score.unscored(reason="no_response", explanation=why or "no model replied")
    if not reply.strip():
        return Score.unscored(reason="no_response", explanation="the reply has no text")
    return Score.unscored(reason="not_raised", explanation="the reply does not raise the question")
