"""`s3lora extrapolate`: LoX, the alignment of a model amplified, as an adapter."""

from __future__ import annotations

from pathlib import Path

import click

from s3lora.cli.options import out_path
from s3lora.extrapolate import extrapolate as extrapolate_alignment
from s3lora.io.checkpoint import Checkpoint


@click.command()
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Checkpoint folder of the model before alignment.",
)
@click.option(
    "--aligned",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Checkpoint folder of the aligned model.",
)
@click.option("-k", "--rank", "k", default=6, show_default=True, help="How many directions.")
@click.option("--alpha", default=1.25, show_default=True, help="How much is added.")
@click.option(
    "--energy", type=float, help="Instead of -k: the share of each difference to hold, in (0, 1]."
)
@out_path("The folder to write; it must not exist yet.", required=True)
def extrapolate(
    base: Path, aligned: Path, k: int, alpha: float, energy: float | None, output: Path
) -> None:
    """Write the adapter that, merged into the aligned model, is LoX.

    Merge it before fine-tuning: alignment then erodes less. Embeddings and
    lm_head are left as they are.
    """
    made = extrapolate_alignment(
        Checkpoint(base), Checkpoint(aligned), output, k=k, alpha=alpha, energy=energy
    )
    click.echo(f"wrote {output}: {len(made.names)} modules", err=True)
