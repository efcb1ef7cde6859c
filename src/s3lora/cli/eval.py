"""`s3lora eval`: safety and utility of a model without an adapter, with it, and with a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.calibrate import calibrate
from s3lora.cli.evaluation_suite import SUITES, evaluate_suite, judge_of, refuse_of_plans
from s3lora.cli.interrupts import kept_words
from s3lora.cli.lab import (
    RECIPES,
    needing_lab,
    only_ours,
    pool_options,
    pools_of,
    references,
    say,
)
from s3lora.cli.options import TABLE_OR_JSON, WEIGHTS, checkpoint_from, out_path
from s3lora.cli.output import emit_table, emit_text
from s3lora.cli.progress import Meter
from s3lora.cli.roles import role_options
from s3lora.errors import ParameterError
from s3lora.io import open_adapter
from s3lora.io.atomic import write_file

if TYPE_CHECKING:
    from s3lora.adapter import Adapter
    from s3lora.lab.evaluate import Evaluation, Progress
    from s3lora.lab.recipes import Pools
    from s3lora.plan import Plan

SCORERS = ("normalised", "published")


@click.group("eval", invoke_without_command=True, subcommand_metavar="[calibrate ...]")
@click.option("--model", metavar="M", help="smollm2, tiny, a checkpoint folder, a hub's name.")
@click.option("--adapter", type=click.Path(), metavar="A", help="An adapter of the model.")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="PLAN",
    help="JSON of `s3lora prune --dry-run --format json`, or a pruned adapter or its s3lora.json.",
)
@WEIGHTS
@click.option("--with", "safe", type=click.Path(), metavar="SAFE", help="As the plan's merge asks.")
@pool_options
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default="harmless",
    show_default=True,
    help="How the adapter was trained: its template and held-out rows are used.",
)
@click.option("--prompts", default=50, show_default=True, metavar="N", help="Of each kind.")
@click.option(
    "--new-tokens", type=int, metavar="N", help="Longest reply.  [default: 32; planner: 256]"
)
@click.option(
    "--longest",
    type=int,
    metavar="N",
    help="Tokens of a response that loss is taken over.  [default: 64; planner: 256]",
)
@click.option(
    "--suite",
    type=click.Choice(SUITES),
    help="Run this suite through Inspect instead: docs/inspect.md.",
)
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    default="logs",
    show_default=True,
    metavar="DIR",
    help="With --suite: where Inspect writes its logs.",
)
@click.option("--plans-only", is_flag=True, help="--suite planner: carry out no plan.")
@click.option("--collection", metavar="TEXTS", help="--suite planner: what plans search in.")
@role_options("each state is its own", "--suite planner: ")
@click.option(
    "--scorer",
    type=click.Choice(SCORERS),
    default="normalised",
    show_default=True,
    help="Finds refusals by keywords: docs/metrics.md.",
)
@click.option("--judge", metavar="URL", help="An OpenAI-compatible endpoint; key: OPENAI_API_KEY.")
@click.option("--judge-model", metavar="NAME", help="The name that the endpoint knows it by.")
@click.option("--cost", is_flag=True, help="Size, latency unmerged and merged, peak memory too.")
@TABLE_OR_JSON
@out_path("Write the result to this file instead of stdout.")
@click.option(
    "--save-replies",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write prompts and replies as JSON lines: they may be harmful text.",
)
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    model: str | None,
    adapter: str | None,
    plan_file: Path | None,
    form: str,
    output: Path | None,
    **options: Any,
) -> None:
    """Measure what an adapter, and a plan to prune it, do to safety and utility.

    Up to three states are asked the same prompts and compared pair by pair:
    the model alone, with the adapter, and with the plan applied in memory. The
    prompts are those that no recipe trains on, given the same --harmful and
    --harmless: a third of the rows, at most 200 of each. The exit status is 0
    whatever is found.

    `s3lora eval calibrate` measures a refusal scorer against people instead.
    """
    if context.invoked_subcommand is not None:
        return
    if model is None:
        raise click.UsageError("Missing option '--model'.", context)
    if (options["judge"] is None) != (options["judge_model"] is None):
        raise ParameterError("--judge and --judge-model belong together", hint="give both")
    if plan_file is not None and adapter is None:
        raise ParameterError("--plan is about an adapter", hint="name it: --adapter A")
    refuse_of_plans(options)
    asked = evaluate_suite if options["suite"] else _evaluate
    with needing_lab():
        asked(model, adapter, plan_file, form, output, options)


evaluate.add_command(calibrate)


def _evaluate(
    model: str,
    adapter: str | None,
    plan_file: Path | None,
    form: str,
    output: Path | None,
    options: dict[str, Any],
) -> None:
    """Ask every state, and print what was found."""
    opened = open_adapter(adapter) if adapter else None
    planned = _plan(opened, plan_file, options)
    named = options["harmful"], options["harmless"]
    pools = pools_of(*named)
    with only_ours(), kept_words("nothing was written, and the same call begins anew"):
        found = _evaluation(model, opened, planned, pools, options)
    if options["save_replies"]:
        _save(found, options["save_replies"])
    if form == "json":
        from s3lora.cli.evaluation_json import render

        head = _head(model, opened, planned, references(*named), options)
        emit_text(render(found, head, pools), output)
    else:
        from s3lora.cli.evaluation_table import show

        title = {"model": model, "adapter": adapter or "", "plan": str(plan_file or "")}
        emit_table(lambda console: show(found, title, options["scorer"], console), output)


def _plan(opened: Adapter | None, path: Path | None, options: dict[str, Any]) -> Plan | None:
    """The plan of --plan for the adapter of --adapter."""
    from s3lora.lab.evaluation_plan import planned_again, read_plan

    if path is None or opened is None:
        return None
    return planned_again(
        read_plan(path),
        opened,
        base=checkpoint_from(options["base"]),
        aligned=checkpoint_from(options["aligned"]),
        safe=open_adapter(options["safe"]) if options["safe"] else None,
    )


def _evaluation(
    model: str,
    opened: Adapter | None,
    planned: Plan | None,
    pools: Pools,
    options: dict[str, Any],
) -> Evaluation:
    from s3lora.lab.evaluate import evaluate
    from s3lora.lab.evaluation_asking import asked_of
    from s3lora.lab.metrics.judge import Judge
    from s3lora.lab.models import load_chat

    chat = load_chat(model)
    states = 1 + (opened is not None) + (planned is not None)
    asked = asked_of(
        chat,
        pools,
        options["recipe"],
        prompts=options["prompts"],
        new_tokens=options["new_tokens"],
        longest=options["longest"],
    )
    with Meter("prompt", 2 * states * len(asked.tokens), "prompts") as meter:
        return evaluate(
            chat,
            asked,
            opened,
            planned,
            scorer=options["scorer"],
            judge=Judge(options["judge"], options["judge_model"]) if options["judge"] else None,
            costs=options["cost"],
            say=say,
            progress=_shown_on(meter),
        )


def _shown_on(meter: Meter) -> Progress:
    """Show whole prompts on a meter; one that several steps of a reply belong to is shown once."""
    shown = 0

    def progress(count: float, total: int, doing: str) -> None:
        nonlocal shown
        tenth = max(1, total // 10)
        due = int(count) // tenth * tenth  # steps pass over the tenth at which a line is due
        whole = due if due > shown else int(count)
        if whole > shown:
            shown = whole
            meter.update(whole, doing)

    return progress


def _head(
    model: str,
    opened: Adapter | None,
    planned: Plan | None,
    sets: tuple[tuple[str, ...], tuple[str, ...]],
    options: dict[str, Any],
) -> dict[str, Any]:
    """What was evaluated, for the JSON."""
    judge = judge_of(options)
    return {
        "model": model,
        "adapter": opened
        and {"ref": opened.ref, "sha256": opened.digest, "modules": len(opened.names)},
        "plan": planned
        and {
            "chosen": list(planned.chosen),
            "edit": {"name": planned.edit, "params": dict(planned.edit_params)},
        },
        "recipe": options["recipe"],
        "data": {"harmful": list(sets[0]), "harmless": list(sets[1])},
        "scorer": options["scorer"],
        "judge": judge,
    }


def _save(found: Evaluation, path: Path) -> None:
    """Write prompts and replies, one line of JSON each."""
    prompts = (*found.asked.harmful, *found.asked.harmless)
    kinds = ["harmful"] * len(found.asked.harmful) + ["harmless"] * len(found.asked.harmless)
    lines = [
        json.dumps(
            {
                "state": state.name,
                "kind": kind,
                "prompt": prompt.prompt,
                "reply": reply.text,
                "tokens": reply.tokens,
                "ended": reply.ended,
            },
            ensure_ascii=False,
        )
        for state in found.states
        for prompt, kind, reply in zip(prompts, kinds, found.answers[state.name].all, strict=True)
    ]
    write_file(path, "\n".join(lines) + "\n")
    say(f"wrote {path}")
