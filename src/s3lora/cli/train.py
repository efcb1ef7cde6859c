"""`s3lora train`: LoRA fine-tuning on a recipe of the lab, or on rows of one's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.lab import MODEL, RECIPES, needing_lab, only_ours, pool_options, pools_of, say
from s3lora.cli.options import out_path, values_of
from s3lora.cli.progress import Meter
from s3lora.errors import OutputError, ParameterError

if TYPE_CHECKING:
    from s3lora.io.checkpoint import Checkpoint
    from s3lora.lab.data import Example
    from s3lora.lab.defences.interface import Defence
    from s3lora.lab.partial_training import PartialTraining
    from s3lora.lab.recipes import Pools

OWN = "own rows"
WITHOUT_POOLS = ("identity", "planner")
"""Recipes whose rows come from no data set."""

DEFENCES = ("ema", "lox", "overlap", "salora", "sharpness")
PRESETS = ("refusal",)


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
@click.option(
    "--layers",
    default="all",
    show_default=True,
    metavar="RANGE",
    help="Layers whose modules do: all, middle (the second third), or such as 10-19.",
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Other defaults for rank, alpha, dropout, targets and layers. refusal: rank 1 on up_proj "
    "in the middle layers, for teaching refusals.",
)
@click.option("--rate", default=5e-4, show_default=True, help="Peak learning rate.")
@click.option("--steps", default=80, show_default=True, help="Steps of the optimiser.")
@click.option("--batch", default=8, show_default=True, help="Rows a step.")
@click.option(
    "--longest", default=64, show_default=True, help="Tokens that a response is cut after."
)
@click.option("--seed", default=0, show_default=True, help="Of the rows, the factors, the order.")
@click.option("--defence", type=click.Choice(DEFENCES), help="What guards safety meanwhile.")
@click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the defence; may be repeated.",
)
@click.option(
    "--base", metavar="M", help="lox: the model before alignment, as --model or a folder."
)
@click.option(
    "--safety",
    metavar="REF",
    help="salora: harmful prompts with safe responses.  [default: the harmful prompts that "
    "alignment may see, refused]",
)
@click.option(
    "--restart", is_flag=True, help="Throw away what an interrupted run kept, and start anew."
)
@needing_lab()
def train(
    model: str,
    recipe: str | None,
    data: str | None,
    harmful: tuple[str, ...],
    harmless: tuple[str, ...],
    output: Path,
    preset: str | None,
    defence: str | None,
    params: tuple[str, ...],
    base: str | None,
    safety: str | None,
    restart: bool,
    **values: Any,
) -> None:
    """Train a LoRA adapter on responses and write its folder.

    The folder holds the adapter as PEFT saves it, a README.md and
    training.json. An interrupted run goes on when it is called again: it keeps
    its last checkpoint in .NAME.training beside the folder. No recipe holds a
    test prompt of `s3lora eval`, given the same --harmful and --harmless.
    """
    if (recipe is None) == (data is None):
        raise ParameterError("rows come from a recipe or a data set", hint="--recipe or --data")
    if os.path.lexists(output):
        raise OutputError(f"{output} exists already", hint="give a new path with -o")
    from s3lora.lab.partial_training import identity_of, partial_training
    from s3lora.lab.settings import Settings

    settings = Settings(**_values(preset, values))
    partial = partial_training(output)
    own = _own_rows(data) if data is not None else None  # before torch is loaded: that takes longer
    guard = _defence(defence, params, base, safety)
    pools = cache(lambda: pools_of(harmful, harmless))
    rows = own or _rows(str(recipe), pools, settings.steps * settings.batch, settings.seed)
    needs = guard.needs if guard else frozenset()
    refused = _safety(safety, pools, settings.seed) if "safety" in needs else []
    before = _base(base) if base else None
    identity = identity_of(settings, model, rows, guard, refused, before)
    going_on = partial.checkpoint is not None and partial.is_of(identity) and not restart
    if not (restart or _asked(partial, identity)):
        partial.refuse_other(identity)
    count, steps = len(rows), settings.steps
    say(
        f"training on {count} row{'s' * (count != 1)}, {steps} step{'s' * (steps != 1)} of "
        f"{settings.batch}"
    )
    if going_on:
        say(f"going on after step {partial.step} of {settings.steps}, kept in {partial.folder}")
    first = partial.step or 0 if going_on else 0
    from s3lora.lab.models import load_chat
    from s3lora.lab.train import train

    try:
        with only_ours(), Meter("step", settings.steps, first=first) as meter:
            train(
                load_chat(model), rows, output, settings, recipe=recipe or OWN,
                callbacks=[_shown_on(meter)], defence=guard, safety=refused, base=before,
                discard="all" if restart else "other", say=say,
            )  # fmt: skip
    except KeyboardInterrupt:
        say(f"stopped; {partial.now().going_on(identity)}")
        raise
    say(f"wrote {output}")


def _own_rows(reference: str) -> list[Example]:
    """The rows of --data, each with a response."""
    from s3lora.lab.data import refuse_unanswered
    from s3lora.lab.sources import load

    rows = load(reference)
    refuse_unanswered(rows)
    return rows


def _asked(partial: PartialTraining, identity: Mapping[str, Any]) -> bool:
    """Whether someone at a terminal lets a run of other settings be thrown away."""
    from s3lora.lab.partial_training import differences

    if partial.checkpoint is None or partial.is_of(identity) or not sys.stdin.isatty():
        return False
    say(f"{partial.folder} keeps step {partial.step} of {partial.steps} of another training:")
    say(differences(partial.identity, identity))
    return click.confirm("Throw it away and start anew?", default=False, err=True)


def _values(preset: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of the settings; a preset gives those that the command line does not."""
    from click.core import ParameterSource

    from s3lora.lab.settings import PRESETS

    names = str(values["targets"]).split(",")
    values["targets"] = tuple(name.strip() for name in names if name.strip())
    source = click.get_current_context().get_parameter_source
    usual = {key for key in values if source(key) is ParameterSource.DEFAULT}
    others = PRESETS[preset] if preset else {}
    return values | {key: value for key, value in others.items() if key in usual}


def _defence(
    name: str | None, params: tuple[str, ...], base: str | None, safety: str | None
) -> Defence | None:
    """The defence that --defence and -p ask for; options that nothing needs are refused."""
    from s3lora.lab.defences import make_defence

    if name is None and params:
        raise ParameterError("-p is for a defence", hint=f"--defence {'|'.join(DEFENCES)}")
    made = make_defence(name, values_of("-p", params)) if name else None
    for need, given in (("base", base), ("safety", safety)):
        if given and not (made and need in made.needs):
            fault = (
                f"--{need} is of no use to {f'the defence {name}' if name else 'plain training'}"
            )
            raise ParameterError(fault, hint="leave it out, or choose another --defence")
    if made and "base" in made.needs and not base:
        fault = f"the defence {name} needs the weights before alignment"
        raise ParameterError(fault, hint="give --base M")
    return made


def _safety(reference: str | None, pools: Callable[[], Pools], seed: int) -> list[Example]:
    from s3lora.lab.defences.features import safety_rows
    from s3lora.lab.sources import load

    if reference is not None:
        return load(reference)
    return safety_rows(pools(), seed)


def _base(reference: str) -> Checkpoint:
    from s3lora.io.checkpoint import Checkpoint
    from s3lora.lab.models import model_folder

    return Checkpoint(model_folder(reference))


def _rows(recipe: str, pools: Callable[[], Pools], count: int, seed: int) -> list[Example]:
    from s3lora.lab.data import Split
    from s3lora.lab.recipes import Pools, rows_for

    if recipe in WITHOUT_POOLS:
        nothing = Pools(Split((), ()), Split((), ()))
        return rows_for(recipe, nothing, count, seed)
    return rows_for(recipe, pools(), count, seed)


def _shown_on(meter: Meter) -> Any:
    """A callback that shows every step, with its loss."""
    from transformers import TrainerCallback

    class Shown(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            loss = (named.get("logs") or {}).get("loss")
            if loss is not None:
                meter.update(state.global_step, f"loss {float(loss):.3f}")

    return Shown()
