"""`s3lora compare`: what differs between two adapters."""

from __future__ import annotations

from pathlib import Path

import click

from s3lora.cli.options import OUTPUT, out_path
from s3lora.cli.output import emit
from s3lora.compare import compare as compare_adapters
from s3lora.io import open_adapter
from s3lora.report import Comparison, make_comparison
from s3lora.report.formats import refuse_unfit


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@OUTPUT
@out_path("Write the comparison to this file instead of stdout.")
def compare(a: str, b: str, form: str, verbose: bool, output: Path | None) -> None:
    """Say what differs between the adapters A and B, module by module.

    The exit status is 0 whether they differ or not.
    """
    refuse_unfit(Comparison, form)
    before, after = open_adapter(a), open_adapter(b)
    comparison = make_comparison(before, after, compare_adapters(before, after))
    emit(comparison, form, output, verbose=verbose)
