"""`s3lora compare`: what differs between two adapters."""

from __future__ import annotations

from pathlib import Path

import click

from s3lora.cli.options import OUTPUT, out_path
from s3lora.cli.output import emit_table, emit_text
from s3lora.compare import compare as compare_adapters
from s3lora.io import open_adapter


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@OUTPUT
@out_path("Write the comparison to this file instead of stdout.")
def compare(a: str, b: str, form: str, verbose: bool, output: Path | None) -> None:
    """Say what differs between the adapters A and B, module by module.

    The exit status is 0 whether they differ or not.
    """
    rows = compare_adapters(open_adapter(a), open_adapter(b))
    if form == "json":
        from s3lora.report.json import render_comparison

        emit_text(render_comparison(a, b, rows), output)
    else:
        from s3lora.report.table import show_comparison

        emit_table(lambda console: show_comparison(a, b, rows, console, verbose=verbose), output)
