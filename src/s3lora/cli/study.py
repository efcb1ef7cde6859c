"""`s3lora study`: adapters, methods and shares, measured cell by cell."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s3lora.cli.interrupts import kept_words
from s3lora.cli.lab import needing_lab, only_ours, say
from s3lora.cli.progress import Meter
from s3lora.errors import DataError

if TYPE_CHECKING:
    from s3lora.lab.study.config import Study
    from s3lora.lab.study.run import Progress


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--tables-only", is_flag=True, help="Write tables and plots from the rows that are there."
)
@needing_lab()
def study(config: Path, tables_only: bool) -> None:
    """Run the study that the TOML file CONFIG describes.

    Every cell is kept as soon as it is measured: a run that was stopped goes on
    when it is called again. Rows, tables and plots go beside CONFIG, models and
    adapters into the study's folder. The paths of the pages are printed. Paths
    in CONFIG, the model's too, are relative to its folder.
    """
    from s3lora.lab.study.config import read_study
    from s3lora.lab.study.run import run

    told = read_study(config)
    if not tables_only:
        with only_ours(), kept_words(lambda: _kept(told)), ExitStack() as stack:
            run(told, say, _shown(stack))
    _write_pages(told)


def _shown(stack: ExitStack) -> Progress:
    """Show cells on a terminal as a bar, elsewhere as a line each."""
    meters: list[Meter] = []

    def progress(count: int, total: int, note: str) -> None:
        if not meters:
            meters.append(stack.enter_context(Meter("cell", total, "cells", first=count)))
        elif sys.stderr.isatty():
            meters[0].update(count, note)
        else:
            say(meters[0].line(count, note))

    return progress


def _kept(study: Study) -> str:
    """What an interrupted run leaves."""
    from s3lora.lab.study.keeping import read_rows
    from s3lora.lab.study.run import ROWS

    path = study.results / ROWS
    count = len(read_rows(path))
    return (
        f"{count} row{'s' * (count != 1)} of cells are kept in {path}, trained adapters and "
        f"checkpoints in {study.folder}; the same call goes on there"
    )


def _write_pages(told: Study) -> None:
    from s3lora.lab.study.keeping import read_causal, read_rows
    from s3lora.lab.study.plots import write_plots
    from s3lora.lab.study.run import CAUSAL, ROWS
    from s3lora.lab.study.tables import choosing, write_tables
    from s3lora.lab.study.units import data_sets

    rows, causal = read_rows(told.results / ROWS), read_causal(told.results / CAUSAL)
    if not rows:
        raise DataError(
            f"{told.results} holds no rows yet", hint="run the study without --tables-only"
        )
    sets = data_sets(told.adapters)
    for path in write_tables(rows, causal, told.results, share=told.shares[0], sets=sets):
        click.echo(path)
    rows, causal = choosing(rows, causal)
    for path in write_plots(rows, causal, told.results, methods=told.plotted or None):
        click.echo(path)
