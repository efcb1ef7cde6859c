"""Who is worker and solver of plans: the options `--worker` and `--solver`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from s3lora.cli.options import together, values_of
from s3lora.errors import ParameterError

KEYS = ("model", "adapter", "plan", "endpoint")
"""What can be said of a role."""

Told = Mapping[str, str]
"""What is said of a role, by key; the model always."""


def role_options(worker: str, scope: str = "") -> Callable[..., Any]:
    """The options of a command that carries out plans.

    Args:
        worker: Who is worker where nothing is said.
        scope: What begins their help.
    """
    reads = f"{scope}Who reads what is found and answers LLM calls."
    keys = "KEY is model, adapter, plan or endpoint; may be repeated."
    return together(
        click.option(
            "--worker",
            multiple=True,
            metavar="KEY=VALUE",
            help=f"{reads} {keys}  [default: {worker}]",
        ),
        click.option(
            "--solver",
            multiple=True,
            metavar="KEY=VALUE",
            help=f"{scope}Who answers, likewise.  [default: as the worker]",
        ),
    )


def workers_of(options: Mapping[str, Any], usual: Told) -> tuple[Told, Told]:
    """What `--worker` and `--solver` say; each empty where it says nothing.

    Args:
        options: Of the command.
        usual: What holds for a role that names no model.

    Raises:
        ParameterError: for an unknown key, one without value, or keys that do not fit each other.
    """
    worker = _told("--worker", options["worker"], usual)
    return worker, _told("--solver", options["solver"], usual) or worker


def _told(flag: str, words: tuple[str, ...], usual: Told) -> Told:
    values = values_of(flag, words)
    for key, value in values.items():
        if key not in KEYS:
            raise ParameterError(f"{flag} has no key {key!r}", hint=f"one of {', '.join(KEYS)}")
        if not value:
            raise ParameterError(f"{flag} {key}= has no value", hint=f"{flag} {key}=VALUE")
    if not values:
        return values
    if "model" not in values:
        if "endpoint" in values:
            raise ParameterError(
                f"{flag} endpoint=… needs the model's name there", hint=f"{flag} model=NAME"
            )
        values = {**usual, **values}
    return fitting(values)


def fitting(told: Told) -> Told:
    """What is said of a role, if it fits.

    Raises:
        ParameterError: for a plan without adapter, or an adapter behind an endpoint.
    """
    if "plan" in told and "adapter" not in told:
        raise ParameterError("a plan is about an adapter", hint="name it: --adapter A")
    if "endpoint" in told and "adapter" in told:
        raise ParameterError(
            "an endpoint takes no adapter from here", hint="load the model: leave URL out"
        )
    return told
