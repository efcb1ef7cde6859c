"""What runs are worth, as one value a run: answers, and what each role took.

A run whose planner or solver gave no reply is *unscored* (None) where it would have mattered; it is
never taken for a refusal, and never for a cheap one. Any other run without an answer counts as a
wrong one. What plans are worth is in `metrics.planning`; the figures of both, by name and with
intervals, in `suites.runs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from s3lora.lab.planner.trace import Outcome, Part, Spent, Trace

UNKNOWN = ("planner failed", "solver failed", "planned")
"""Outcomes of which nobody can tell how right the answer would have been: they are unscored."""

FAILED: dict[Part, Outcome] = {"planner": "planner failed", "solver": "solver failed"}
"""Outcomes after which nobody knows what a role took."""

Traces = Sequence[Trace | None]
"""One per task; None where there is none."""

Quantity = Literal["read", "written", "seconds"]


def answered(traces: Traces) -> list[bool | None]:
    """Whether the plan was carried out and the solver answered, rightly or not."""
    outcomes = [trace.outcome if trace else None for trace in traces]
    return [None if each is None or each in UNKNOWN else each == "answered" for each in outcomes]


def answers(traces: Traces) -> list[str | None]:
    """The answers to score: empty where the agent gave none, None where nobody can tell."""
    return [
        None if trace is None or trace.outcome in UNKNOWN else trace.answer or ""
        for trace in traces
    ]


def spent(traces: Traces, part: Part, quantity: Quantity) -> list[float | None]:
    """Tokens or seconds of a role; none of them where the run did not get to it."""
    return [None if trace is None else _spent(trace, part, quantity) for trace in traces]


def _spent(trace: Trace, part: Part, quantity: Quantity) -> float | None:
    if trace.outcome == "planner failed" or trace.outcome == FAILED.get(part):
        return None
    return float(getattr(trace.spent.get(part, Spent()), quantity))
