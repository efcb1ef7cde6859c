"""`s3lora eval --suite`: a suite through Inspect on the states of a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3lora.cli.interrupts import kept_words
from s3lora.cli.lab import only_ours, references, say
from s3lora.cli.output import emit_table, emit_text
from s3lora.cli.progress import Meter
from s3lora.cli.roles import Told, workers_of
from s3lora.errors import ParameterError, install_hint
from s3lora.io import open_adapter

if TYPE_CHECKING:
    from inspect_ai.model import Model

    from s3lora.lab.suites.peft import Given
    from s3lora.lab.suites.run import SuiteRun

SUITES = ("refusal", "over-refusal", "planner")

UNUSED = {
    "cost": "the log holds tokens and times",
    "longest": "no loss is taken over responses",
    "save_replies": "the log holds the replies",
}
"""Options that say nothing to a suite, and why."""

OF_PLANS = ("plans_only", "collection", "worker", "solver")
"""Options that say something to the planner's suite alone."""


def evaluate_suite(
    model: str,
    adapter: str | None,
    plan_file: Path | None,
    form: str,
    output: Path | None,
    options: dict[str, Any],
) -> None:
    """Run the suite on every state, and print what it found."""
    _refuse(options)
    if find_spec("inspect_ai") is None:
        hint = install_hint("inspect")
        raise ParameterError("a suite needs inspect_ai, which is not installed", hint=hint)
    mismatch = _mismatch(model, adapter)
    words = f"logs of finished states are in {options['logs']}, and the same call begins anew"
    with kept_words(words):
        found = _run(model, adapter, plan_file, options)
    if mismatch:
        found = replace(found, warnings=(*found.warnings, mismatch))
    title = {"model": model, "adapter": adapter or "", "plan": str(plan_file or "")}
    if form == "json":
        from s3lora.cli.evaluation_json import render_suite

        emit_text(render_suite(found, _head(title, options)), output)
    else:
        from s3lora.cli.evaluation_table import show_suite

        emit_table(lambda console: show_suite(found, title, console), output)
    say(f"logs: {options['logs']}; to read them: inspect view --log-dir {options['logs']}")


def refuse_of_plans(options: dict[str, Any]) -> None:
    """Refuse options about plans that are carried out where none is.

    Raises:
        ParameterError: if there is one.
    """
    for name in OF_PLANS:
        flag = "--" + name.replace("_", "-")
        if options[name] and options["suite"] != "planner":
            raise ParameterError(f"{flag} is about plans", hint="--suite planner carries them out")
        if options[name] and options["plans_only"] and name != "plans_only":
            raise ParameterError(f"--plans-only leaves nothing to {flag}", hint="leave one out")


def _mismatch(model: str, adapter: str | None) -> str:
    """A warning where the adapter names another base, said at once; empty otherwise."""
    from s3lora.lab.base_names import other_base

    mismatch = other_base(open_adapter(adapter), model) if adapter else ""
    if mismatch:
        say(f"warning: {mismatch}")
    return mismatch


def _refuse(options: dict[str, Any]) -> None:
    for name, why in UNUSED.items():
        if options[name]:
            flag = "--" + name.replace("_", "-")
            raise ParameterError(f"{flag} is not for a suite: {why}", hint="leave it out")
    if options["scorer"] != "normalised":
        raise ParameterError("a suite tells both keyword scorers", hint="leave --scorer out")
    if options["judge"] and options["suite"] != "refusal":
        raise ParameterError(
            f"{options['suite']} has nothing to judge", hint="--judge is for --suite refusal"
        )
    if options["suite"] == "planner" and (options["harmful"] or options["harmless"]):
        raise ParameterError("the planner's tasks are made", hint="leave out --harmful, --harmless")


def _run(
    model: str, adapter: str | None, plan_file: Path | None, options: dict[str, Any]
) -> SuiteRun:
    from s3lora.lab.suites.run import run

    with only_ours():
        return run(
            options["suite"],
            _states(model, adapter, plan_file, options),
            _arguments(options),
            options["logs"],
            roles=_roles(model, options),
            say=say,
            watch=_meter,
        )


@contextmanager
def _meter(state: str) -> Iterator[Callable[[int, int], None]]:
    """A meter of the samples of a state."""
    with Meter(f"{state}: prompt", None, "prompts") as meter:

        def show(finished: int, total: int) -> None:
            meter.total = total
            meter.update(finished)

        yield show


def _roles(model: str, options: dict[str, Any]) -> dict[str, Model | Given]:
    """The models that are the same for every state."""
    from s3lora.lab.suites.graders import GRADER

    told = _workers(model, options)
    if options["judge"]:
        told[GRADER] = {"endpoint": options["judge"], "model": options["judge_model"]}
    return {part: _role(part, each, options) for part, each in told.items()}


def _workers(model: str, options: dict[str, Any]) -> dict[str, Told]:
    """What is said of worker and solver, where something is."""
    worker, solver = workers_of(options, {"model": model})
    return {part: told for part, told in (("worker", worker), ("solver", solver)) if told}


def _role(part: str, told: Told, options: dict[str, Any]) -> Model | Given:
    from s3lora.lab.suites.peft import Given
    from s3lora.lab.suites.run import endpoint

    if "endpoint" in told:
        key = os.environ.get("OPENAI_API_KEY")
        return endpoint(part, told["endpoint"], told["model"], key)
    if "plan" in told:
        return _planned(told["model"], told["adapter"], told["plan"], options)
    return Given(told["model"], told.get("adapter"))


def _states(
    model: str, adapter: str | None, plan_file: Path | None, options: dict[str, Any]
) -> dict[str, Given]:
    from s3lora.lab.evaluate import BARE, PLANNED, WITH
    from s3lora.lab.suites.peft import Given

    states = {BARE: Given(model)}
    if adapter:
        states[WITH] = Given(model, adapter)
    if plan_file:
        states[PLANNED] = _planned(model, adapter, str(plan_file), options)
    return states


def _planned(model: str, adapter: str | None, file: str, options: dict[str, Any]) -> Given:
    """A model with what a plan leaves of an adapter."""
    from s3lora.lab.suites.peft import Given

    return Given(
        model,
        adapter,
        file,
        weights=_path(options["base"]),
        aligned=_path(options["aligned"]),
        safe=options["safe"],
    )


def _path(folder: Path | None) -> str | None:
    return str(folder) if folder else None


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Of the suite's task."""
    count, new_tokens = options["prompts"], options["new_tokens"]
    if options["suite"] == "planner":
        return {
            "tasks": count,
            "pairs": count,
            "new_tokens": new_tokens,
            "carry_out": not options["plans_only"],
            "collection": options["collection"],
        }
    return {
        "harmful": list(options["harmful"]) or None,
        "harmless": list(options["harmless"]) or None,
        "recipe": options["recipe"],
        "prompts": count,
        "new_tokens": new_tokens,
    }


def _head(title: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    """What was evaluated, for the JSON."""
    data = references(options["harmful"], options["harmless"])
    made = options["suite"] == "planner"
    workers = _workers(str(title["model"]), options)
    return {
        **{name: value or None for name, value in title.items()},
        "recipe": None if made else options["recipe"],
        "data": None if made else {"harmful": list(data[0]), "harmless": list(data[1])},
        "judge": judge_of(options),
        "roles": {part: _shown(told) for part, told in workers.items()},
    }


def judge_of(options: dict[str, Any]) -> dict[str, str] | None:
    """The judge as the JSON has it, without user and password; None where there is none."""
    if not options["judge"]:
        return None
    return _shown({"endpoint": options["judge"], "model": options["judge_model"]})


def _shown(told: Told) -> dict[str, str]:
    """What is said of a role, without the user and password of an endpoint."""
    from s3lora.lab.endpoints import shown

    return {key: shown(text) if key == "endpoint" else text for key, text in told.items()}
