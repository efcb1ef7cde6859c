"""`s3lora report`: a saved result in another format."""

from __future__ import annotations

from pathlib import Path

import click

from s3lora.cli.options import OUTPUT, out_path
from s3lora.cli.output import emit


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@OUTPUT
@out_path("Write the report to this file instead of stdout.")
def report(result: Path, form: str, verbose: bool, output: Path | None) -> None:
    """Render a saved RESULT again, in any format.

    RESULT is what scan, prune, rank or compare wrote with --format json; the
    adapter itself is not needed. The exit status is 0 whatever the result says.
    """
    from s3lora.report.reading import load

    emit(load(result), form, output, verbose=verbose)
