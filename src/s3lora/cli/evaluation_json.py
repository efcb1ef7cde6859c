"""An evaluation as JSON, schema 1: what other programs build on. It never holds NaN."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from s3lora.lab.data import Example, digest_of
from s3lora.lab.evaluate import Difference, Evaluation, State
from s3lora.lab.evaluation_asking import Answers
from s3lora.lab.finite import json_text
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.recipes import Pools
from s3lora.report import tool

if TYPE_CHECKING:
    from s3lora.lab.suites.run import SuiteRun

LIBRARIES = ("torch", "transformers", "peft", "numpy")


def render(found: Evaluation, head: Mapping[str, Any], pools: Pools) -> str:
    """The evaluation as JSON; prompts are told by their digests, replies not at all."""
    asked = found.asked
    document = {
        **_top("eval", LIBRARIES),
        **head,
        "splits": {"harmful": pools.harmful.digest, "harmless": pools.harmless.digest},
        "asked": {
            "harmful": _asked(asked.harmful),
            "harmless": _asked(asked.harmless),
            "new_tokens": asked.new_tokens,
            "response_tokens": sum(asked.probe.tokens),
            "openings": asdict(asked.openings),
        },
        "states": [_state(state, found.answers[state.name]) for state in found.states],
        "differences": _differences(found.differences),
        "memory": found.memory and _figure(found.memory),
        "warnings": list(found.warnings),
        "notes": list(found.notes),
    }
    return json_text(document)


def render_suite(found: SuiteRun, head: Mapping[str, Any]) -> str:
    """A suite as JSON; replies are in the logs that it names."""
    document = {
        **_top("suite", (*LIBRARIES, "inspect-ai")),
        **head,
        "suite": found.suite,
        "asked": dict(found.asked),
        "states": [
            {**_told(state), "samples": _samples(state), "log": found.logs[state.name]}
            for state in found.states
        ],
        "differences": _differences(found.differences),
        "warnings": list(found.warnings),
        "notes": list(found.notes),
    }
    return json_text(document)


def _top(kind: str, libraries: Iterable[str]) -> dict[str, Any]:
    """What every document begins with."""
    python = {"python": ".".join(map(str, sys.version_info[:3]))}
    versions = python | {name: version(name) for name in libraries}
    return {"schema": 1, "kind": kind, "tool": tool(), "versions": versions}


def _differences(rows: Iterable[Difference]) -> list[dict[str, Any]]:
    return [{"a": row.a, "b": row.b, "key": row.key, **_figure(row.figure)} for row in rows]


def _asked(prompts: Iterable[Example]) -> dict[str, Any]:
    """A digest of each prompt, and of all with their references."""
    rows = tuple(prompts)
    each = [digest_of([Example(row.prompt)]) for row in rows]
    return {"n": len(rows), "digest": digest_of(rows), "prompts": each}


def _state(state: State, answers: Answers) -> dict[str, Any]:
    samples = _samples(state)
    parts = {"harmful": answers.harmful, "harmless": answers.harmless}
    for side, replies in parts.items():
        samples[side]["reply_tokens"] = [reply.tokens for reply in replies]
        samples[side]["ended"] = [reply.ended for reply in replies]
        samples[side]["entropy"] = [reply.entropy for reply in replies]
    return {**_told(state), "samples": samples}


def _told(state: State) -> dict[str, Any]:
    """Name, size and figures of a state."""
    return {
        "name": state.name,
        "modules": state.modules,
        "figures": [
            {"key": result.key, "block": result.block, **_figure(result.figure)}
            for result in state.results
        ],
    }


def _samples(state: State) -> dict[str, dict[str, Any]]:
    """The values by prompt, harmful and harmless."""
    samples: dict[str, dict[str, Any]] = {"harmful": {}, "harmless": {}}
    for result in state.results:
        if result.side and result.values:
            samples[result.side][result.key] = list(result.values)
        if result.side and result.weights:
            samples[result.side][f"{result.key}_tokens"] = list(result.weights)
    return samples


def _figure(told: Figure) -> dict[str, Any]:
    return asdict(told)
