"""A run as plain data, for JSON and for logs, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from s3lora.errors import DataError
from s3lora.lab.planner.evidence import Evidence
from s3lora.lab.planner.grammar import parse
from s3lora.lab.planner.trace import OUTCOMES, Spent, Trace

FOUND = ("tool", "input", "text", "failed", "seconds")
"""What is kept of the evidence of a step."""


def record_of(trace: Trace) -> dict[str, Any]:
    """All that people and programs read of a run."""
    plan = trace.plan
    return {
        "question": trace.question,
        "outcome": trace.outcome,
        "reason": trace.reason,
        "plan": {
            "text": trace.text,
            "steps": [asdict(step) | {"id": step.id} for step in plan.steps] if plan else [],
            "faults": [asdict(fault) for fault in plan.faults] if plan else [],
            "levels": [list(level) for level in plan.levels] if plan else [],
        },
        "evidence": [
            {"id": number} | {name: getattr(found, name) for name in FOUND}
            for number, found in sorted(trace.evidence.items())
        ],
        "answer": trace.answer,
        "spent": {part: asdict(spent) for part, spent in trace.spent.items()},
        "tokens": trace.tokens,
        "seconds": trace.seconds,
    }


def trace_in(record: Mapping[str, Any]) -> Trace:
    """The run of which `record_of` made a record; replies of workers are not in it.

    Raises:
        DataError: if it is no such record.
    """
    try:
        text = record["plan"]["text"]
        if record["outcome"] not in OUTCOMES:
            raise ValueError(record["outcome"])
        return Trace(
            record["question"],
            record["outcome"],
            record["reason"],
            text,
            None if text is None else parse(text),
            {row["id"]: _evidence(row) for row in record["evidence"]},
            record["answer"],
            {part: Spent(**spent) for part, spent in record["spent"].items()},
            record["seconds"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"this is no record of a run: {error!r}", hint="take it from `s3lora plan` or a log"
        ) from error


def _evidence(row: Mapping[str, Any]) -> Evidence:
    told = {name: row[name] for name in FOUND}
    return Evidence(**told, reply=None)
