"""`s3lora lab gate`: modules ranked by what each does to refusal and loss, from a little data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.lab import MODEL, RECIPES, needing_lab, only_ours, pool_options, pools_of, say
from s3lora.cli.options import ADAPTER, out_path
from s3lora.cli.output import emit_table, emit_text
from s3lora.errors import DataError, ParameterError
from s3lora.io import open_adapter

if TYPE_CHECKING:
    from s3lora.lab.recipes import Pools

MEASURES = ("balance", "refusal", "per-loss")


@click.command()
@ADAPTER
@MODEL
@pool_options
@click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    default="harmless",
    show_default=True,
    help="How the adapter was trained: its template is used.",
)
@click.option(
    "--measure",
    type=click.Choice(MEASURES),
    default="balance",
    show_default=True,
    help="What the score weighs: refusal alone, by the loss it costs, or less a fair price.",
)
@click.option("--top-k", type=click.IntRange(min=1), metavar="K", help="How many are named.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "names"]),
    default="table",
    show_default=True,
    help="names: the first K, separated by commas.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show every module.")
@out_path("Write the ranking to this file instead of stdout.")
@needing_lab()
def gate(
    adapter: str,
    model: str,
    harmful: tuple[str, ...],
    harmless: tuple[str, ...],
    recipe: str,
    measure: str,
    top_k: int | None,
    form: str,
    verbose: bool,
    output: Path | None,
) -> None:
    """Rank modules by their first-order effect.

    That is what taking each module of ADAPTER out does to refusal and to task
    loss. It needs the model and about seventy prompts, which are neither
    trained nor tested on. The score is high where taking it out gains refusal.
    """
    from s3lora.cli import gate_ranking
    from s3lora.lab.gate import gate_table
    from s3lora.selection import paper_k

    if form == "names" and top_k is None:
        raise ParameterError("--format names needs a number of modules", hint="give --top-k K")
    opened = open_adapter(adapter)
    pools = pools_of(harmful, harmless)
    with only_ours():
        table = gate_table(_slopes(opened, model, pools, recipe), opened.names, measure)
    best = [score.module for score in table.ranked()][: top_k or paper_k(len(opened.names))]
    if form == "names":
        emit_text(",".join(best) + "\n", output)
    elif form == "json":
        emit_text(gate_ranking.render(opened, model, recipe, table, pools), output)
    else:
        command = f"s3lora prune {shlex.quote(adapter)} --modules {shlex.quote(','.join(best))}"
        show = gate_ranking.show
        emit_table(
            lambda console: show(adapter, table, command, len(best), console, verbose=verbose),
            output,
        )


def _slopes(opened: Any, model: str, pools: Pools, recipe: str) -> Any:
    from s3lora.lab.gate import slopes
    from s3lora.lab.models import load_chat
    from s3lora.lab.patched import Patched
    from s3lora.lab.probes import Openings, make_probe
    from s3lora.lab.recipes import for_gates

    harmful, harmless = for_gates(recipe, pools)
    rows = [row for row in harmless if row.response]
    if not harmful or not rows:
        raise DataError(
            "there are no rows for the gate: it takes harmful ones from number 281 and harmless "
            "ones, with responses, from number 401 of the training part",
            hint="name larger data sets, or leave --harmful and --harmless out",
        )
    chat = load_chat(model)
    patched = Patched(chat.model, opened)
    whole = [opened.read(name) for name in opened.names]
    patched.apply(whole)
    probe = make_probe(chat.tokenizer, harmful, (), rows, Openings())
    say(f"asking {len(harmful)} harmful and {len(rows)} harmless prompts")
    return slopes(patched, whole, probe)
