"""`s3lora train`: LoRA fine-tuning on a recipe of the lab, or on rows of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.lab import MODEL, RECIPES, needing_lab, only_ours, pool_options, pools_of, say
from s3lora.cli.options import out_path
from s3lora.errors import OutputError, ParameterError

if TYPE_CHECKING:
    from s3lora.lab.data import Example

OWN = "own rows"
WITHOUT_POOLS = ("identity", "planner")
"""Recipes whose rows come from no data set."""


@click.command()
@MODEL
@click.option("--recipe", type=click.Choice(RECIPES), help="Rows that the lab makes.")
@click.option("--data", metavar="REF", help="Rows with responses: a file, a hub's, or a name.")
@pool_options
@out_path("The folder to write; it must not exist yet.", required=True)
@click.option("--rank", default=8, show_default=True, help="r of the updates.")
@click.option("--alpha", default=16.0, show_default=True, help="The scale is alpha/r.")
@click.option("--dropout", default=0.0, show_default=True, help="Of LoRA's input, in [0, 1).")
@click.option(
    "--targets",
    default="q_proj,k_proj,v_proj,o_proj",
    show_default=True,
    metavar="NAMES",
    help="Linear modules that get an update: last parts of names.",
)
@click.option("--rate", default=5e-4, show_default=True, help="Peak learning rate.")
@click.option("--steps", default=80, show_default=True, help="Steps of the optimiser.")
@click.option("--batch", default=8, show_default=True, help="Rows a step.")
@click.option(
    "--longest", default=64, show_default=True, help="Tokens that a response is cut after."
)
@click.option("--seed", default=0, show_default=True, help="Of the rows, the factors, the order.")
@needing_lab()
def train(
    model: str,
    recipe: str | None,
    data: str | None,
    harmful: tuple[str, ...],
    harmless: tuple[str, ...],
    output: Path,
    targets: str,
    **values: Any,
) -> None:
    """Train a LoRA adapter on responses and write its folder.

    The folder holds the adapter as PEFT saves it, a README.md and
    training.json. An interrupted run goes on when it is called again. No
    recipe holds a test prompt of `s3lora eval`, given the same --harmful and
    --harmless.
    """
    if (recipe is None) == (data is None):
        raise ParameterError("rows come from a recipe or a data set", hint="--recipe or --data")
    if output.exists() or output.is_symlink():
        raise OutputError(f"{output} exists already", hint="give a new path with -o")
    from s3lora.lab.models import load_chat
    from s3lora.lab.train import Settings, train

    wanted = tuple(name.strip() for name in targets.split(",") if name.strip())
    settings = Settings(targets=wanted, **values)
    count = settings.steps * settings.batch
    rows = _rows(recipe, data, harmful, harmless, count, settings.seed)
    told = _progress(settings.steps)
    with only_ours():
        say(f"training on {len(rows)} rows, {settings.steps} steps of {settings.batch}")
        chat = load_chat(model)
        train(chat, rows, output, settings, recipe=recipe or OWN, callbacks=[told])
    say(f"wrote {output}")


def _rows(
    recipe: str | None,
    data: str | None,
    harmful: tuple[str, ...],
    harmless: tuple[str, ...],
    count: int,
    seed: int,
) -> list[Example]:
    from s3lora.lab.data import Split, load
    from s3lora.lab.recipes import Pools, rows_for

    if data is not None:
        return load(data)
    if recipe in WITHOUT_POOLS:
        nothing = Pools(Split((), ()), Split((), ()))
        return rows_for(recipe, nothing, count, seed)
    return rows_for(str(recipe), pools_of(harmful, harmless), count, seed)


def _progress(steps: int) -> Any:
    """A callback that says the loss about ten times."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            loss = (named.get("logs") or {}).get("loss")
            due = state.global_step % max(1, steps // 10) == 0 or state.global_step == steps
            if loss is not None and due:
                say(f"step {state.global_step} of {steps}: loss {float(loss):.3f}")

    return Progress()
