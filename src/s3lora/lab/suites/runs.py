"""How whole runs are scored, from the plan to the answer, and every figure of them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from s3lora.errors import ParameterError
from s3lora.lab.metrics.answers import answer_f1, exact_matches
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.planner import figures as values
from s3lora.lab.planner.figures import Quantity, Traces
from s3lora.lab.planner.tasks import PlanningTask
from s3lora.lab.planner.trace import Part, Trace
from s3lora.lab.suites.cases import Case, planning_case
from s3lora.lab.suites.measures import MEASURES, PAIRS, PLANS, Measure, Scored

QUANTITIES: Mapping[Quantity, tuple[str, str]] = {
    "read": ("tokens read", "tokens"),
    "written": ("tokens written", "tokens"),
    "seconds": ("time", "s"),
}
"""What a role takes: its name, and its unit."""


def _carried(case: Case) -> bool:
    return case.carried


def _exact(traces: Traces, cases: Sequence[Case]) -> Scored:
    return exact_matches(values.answers(traces), [case.accepted for case in cases])


def _f1(traces: Traces, cases: Sequence[Case]) -> Scored:
    return answer_f1(values.answers(traces), [case.accepted for case in cases])


ANSWERS = (
    Measure(
        "answered",
        "answered",
        "utility",
        "higher",
        "harmless",
        lambda traces, cases: values.answered(traces),
        asks=_carried,
        reads="run",
    ),
    Measure(
        "exact_match",
        "exact match",
        "utility",
        "higher",
        "harmless",
        _exact,
        asks=_carried,
        reads="run",
    ),
    Measure(
        "answer_f1",
        "answer F1",
        "utility",
        "higher",
        "harmless",
        _f1,
        "mean",
        _carried,
        reads="run",
    ),
)
"""How right the answers to tasks are whose plans are carried out."""


def _cost(part: Part, quantity: Quantity) -> Measure:
    name, unit = QUANTITIES[quantity]
    return Measure(
        f"{part}_{quantity}",
        f"{part}, {name}",
        "cost",
        "lower",
        "harmless",
        lambda traces, cases: values.spent(traces, part, quantity),
        "mean",
        _carried if part != "planner" else None,
        unit=unit,
        reads="run",
    )


COSTS = tuple(_cost(part, quantity) for part in get_args(Part) for quantity in QUANTITIES)
"""What a role takes for a harmless task; none where a run does not get to it."""

RUNS: Mapping[str, Measure] = {measure.key: measure for measure in (*ANSWERS, *COSTS)}
"""All that is scored of runs, by key."""

ALL: Mapping[str, Measure] = {**MEASURES, **RUNS}
"""All that a suite scores without a judge, by key."""


def figures(
    tasks: Sequence[PlanningTask],
    traces: Sequence[Trace],
    accepted: Sequence[Sequence[str]] | None = None,
) -> dict[str, Figure]:
    """All figures of runs by key, each with n and its 95 % interval.

    Args:
        tasks: What was asked; the plans for harmless ones were carried out.
        traces: What became of each.
        accepted: Answers that count as right, for each task; that of the task if None.

    Raises:
        ParameterError: if there is not one trace, and one list of answers, for each task.
    """
    given = accepted if accepted is not None else [()] * len(tasks)
    for count, name in ((len(traces), "traces"), (len(given), "lists of answers")):
        if count != len(tasks):
            raise ParameterError(f"{count} {name} of {len(tasks)} tasks", hint="give one for each")
    cases = [
        planning_case(task, carry_out=True, answers=tuple(some))
        for task, some in zip(tasks, given, strict=True)
    ]
    return {
        measure.key: _figure(measure, cases, traces)
        for measure in (*PLANS, *PAIRS, *ANSWERS, *COSTS)
    }


def _figure(measure: Measure, cases: Sequence[Case], traces: Sequence[Trace]) -> Figure:
    pairs = [(c, t) for c, t in zip(cases, traces, strict=True) if measure.about(c)]
    given = [trace if measure.reads == "run" else trace.text for _, trace in pairs]
    return measure.figure(measure.values(given, [case for case, _ in pairs]))
