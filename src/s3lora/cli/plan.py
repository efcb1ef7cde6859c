"""`s3lora plan`: one question, from the planner's plan to the solver's answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.interrupts import kept_words
from s3lora.cli.lab import MODEL, needing_lab, only_ours, say
from s3lora.cli.options import TABLE_OR_JSON, WEIGHTS, checkpoint_from, out_path
from s3lora.cli.output import emit_table, emit_text
from s3lora.cli.roles import Told, fitting, role_options, workers_of
from s3lora.errors import ParameterError
from s3lora.io import open_adapter

if TYPE_CHECKING:
    from s3lora.lab.planner.articles import Article
    from s3lora.lab.planner.loop import Agent
    from s3lora.lab.planner.roles import Role
    from s3lora.lab.planner.trace import Part


@click.command("plan")
@click.argument("question")
@MODEL
@click.option("--adapter", type=click.Path(), metavar="A", help="An adapter: the planner's.")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(),
    metavar="PLAN",
    help="Prune the adapter by it: `s3lora prune --dry-run --format json`.",
)
@click.option(
    "--endpoint",
    metavar="URL",
    help="Ask the model at this OpenAI-compatible endpoint; key: OPENAI_API_KEY.",
)
@role_options("the model alone")
@click.option(
    "--collection",
    type=click.Path(path_type=Path),
    metavar="TEXTS",
    help="What Search looks in: a .jsonl file or a folder.  [default: the invented test world]",
)
@click.option("--passages", is_flag=True, help="Searches give passages, the worker reads none.")
@click.option("--steps", default=20, show_default=True, metavar="N", help="Most steps of a plan.")
@click.option("--tokens", default=8000, show_default=True, metavar="N", help="Most tokens in all.")
@click.option("--seconds", default=300.0, show_default=True, metavar="S", help="Most time.")
@click.option("--new-tokens", default=256, show_default=True, metavar="N", help="Longest plan.")
@WEIGHTS
@click.option("--with", "safe", type=click.Path(), metavar="SAFE", help="As the plan's merge asks.")
@TABLE_OR_JSON
@out_path("Write the trace to this file instead of stdout.")
@needing_lab()
def plan(
    question: str,
    collection: Path | None,
    form: str,
    output: Path | None,
    **options: Any,
) -> None:
    """Answer QUESTION by a plan: planner, workers, solver (ReWOO).

    The planner writes all steps at once, tools carry them out, the solver
    answers from what they found. Roles of one model share its weights in
    memory. The exit status is 0 whatever becomes of the question: the outcome
    says it.
    """
    from s3lora.cli.plan_trace import render, show

    if not question.strip():
        raise ParameterError("there is no question", hint="give it in quotes")
    if options["new_tokens"] < 1:
        raise ParameterError("a plan needs tokens", hint="--new-tokens is at least 1")
    with only_ours(), kept_words("nothing was written, and the same call asks anew"):
        roles = _roles(options)
        agent = _agent(roles, collection, options)
        (trace,) = agent.run([question])
    labels: dict[Part, str] = {part: role.label for part, role in roles.items()}
    if form == "json":
        head = {
            "roles": labels,
            "collection": str(collection) if collection else "world",
            "budget": {name: options[name] for name in ("steps", "tokens", "seconds")},
        }
        emit_text(render(trace, head), output)
    else:
        emit_table(lambda console: show(trace, labels, console), output)


def _agent(roles: Mapping[Part, Role], collection: Path | None, options: dict[str, Any]) -> Agent:
    from s3lora.lab.planner.loop import Agent
    from s3lora.lab.planner.run import Budget
    from s3lora.lab.planner.search import Index
    from s3lora.lab.planner.tools import usual_tools

    budget = Budget(options["steps"], options["tokens"], options["seconds"])
    index = Index(_articles(collection))
    tools = usual_tools(index, roles["worker"], read=not options["passages"])
    return Agent(
        roles["planner"], roles["solver"], tools, budget, plan_tokens=options["new_tokens"]
    )


def _articles(collection: Path | None) -> list[Article]:
    from s3lora.lab.planner.articles import collection as world
    from s3lora.lab.planner.search import read_collection
    from s3lora.lab.recipes import SEED

    return world("test", SEED) if collection is None else read_collection(collection)


def _roles(options: dict[str, Any]) -> dict[Part, Role]:
    """The roles that the options name; what they share is loaded once."""
    named = {"model": options["model"]}
    if options["endpoint"]:
        named["endpoint"] = options["endpoint"]
    own = {"adapter": options["adapter"], "plan": options["plan_file"]}
    planner = named | {key: value for key, value in own.items() if value}
    worker, solver = workers_of(options, named)
    maker = _Maker(options)
    return {
        "planner": maker.role(fitting(planner)),
        "worker": maker.role(worker or named),
        "solver": maker.role(solver or named),
    }


class _Maker:
    """Makes roles; a model is loaded once, however many roles it has."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self._shared: dict[str, Any] = {}

    def role(self, told: Told) -> Role:
        """The role that is told of by its keys."""
        from s3lora.lab.base_names import other_base
        from s3lora.lab.models import load_chat
        from s3lora.lab.planner.endpoint import Endpoint
        from s3lora.lab.planner.local import Shared

        model, adapter, file = told["model"], told.get("adapter"), told.get("plan")
        if "endpoint" in told:
            return Endpoint(told["endpoint"], model)
        if model not in self._shared:
            self._shared[model] = Shared(load_chat(model))
        shared: Shared = self._shared[model]
        if adapter is None:
            return shared.role()
        opened = open_adapter(adapter)
        if mismatch := other_base(opened, model, shared.chat.model.config.to_dict()):
            say(f"warning: {mismatch}")
        return shared.role(opened, self._planned(opened, file) if file else None)

    def _planned(self, opened: Any, file: str) -> Any:
        from s3lora.lab.evaluation_plan import planned_again, read_plan

        safe = self.options["safe"]
        return planned_again(
            read_plan(Path(file)),
            opened,
            base=checkpoint_from(self.options["base"]),
            aligned=checkpoint_from(self.options["aligned"]),
            safe=open_adapter(safe) if safe else None,
        )
