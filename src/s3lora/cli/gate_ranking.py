"""The ranking of `s3lora lab gate`, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s3lora.adapter import Adapter
from s3lora.lab.finite import json_text
from s3lora.report import tool
from s3lora.report.escape import printable
from s3lora.report.lines import Lines
from s3lora.scores import ScoreTable

if TYPE_CHECKING:
    from s3lora.lab.recipes import Pools

SHOWN = 15
"""How many modules are shown without -v."""


def show(
    ref: str, table: ScoreTable, command: str, k: int, console: Console, *, verbose: bool = False
) -> None:
    """Print the ranking, and how to prune by it."""
    lines = Lines(console)
    lines.say(ref, style="bold")
    lines.say(
        f"gate, {table.params['measure']}: high where taking the module out gains refusal. "
        "Slopes, in nats, are of the refusal log-odds and of the loss per token."
    )
    lines.say("")
    ranked = table.ranked()
    shown = ranked if verbose else ranked[:SHOWN]
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("rank", justify="right")
    grid.add_column("module", overflow="fold")
    for title in ("score", "refusal slope", "loss slope"):
        grid.add_column(title, justify="right", no_wrap=True)
    for place, score in enumerate(shown, 1):
        numbers = (score.value, score.parts["refusal_slope"], score.parts["loss_slope"])
        cells = [f"{round(number, 5) + 0.0:+.5f}".replace("-", "−") for number in numbers]
        grid.add_row(str(place), Text(printable(score.module)), *cells)
    console.print(grid)
    if len(shown) < len(ranked):
        lines.say(f"… {len(ranked) - len(shown)} more; -v shows all", style="dim")
    lines.say("")
    lines.say(f"Take the first {k} out, or halve them with --edit scale; then measure, with")
    lines.say("s3lora eval, what it did:")
    console.print(Text(f"  {printable(command)} -o OUT"), soft_wrap=True)


def render(adapter: Adapter, model: str, recipe: str, table: ScoreTable, pools: Pools) -> str:
    """The ranking as JSON, schema 1."""
    document = {
        "schema": 1,
        "kind": "gate",
        "tool": tool(),
        "adapter": {"ref": adapter.ref, "sha256": adapter.digest},
        "model": model,
        "recipe": recipe,
        "method": {"name": table.method, "params": dict(table.params), "unsafe": table.unsafe},
        "splits": {"harmful": pools.harmful.digest, "harmless": pools.harmless.digest},
        "modules": [
            {"module": score.module, "rank": place, "score": score.value, **score.parts}
            for place, score in enumerate(table.ranked(), 1)
        ],
    }
    return json_text(document)
