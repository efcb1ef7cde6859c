"""`s3lora plot`: a figure of a saved result, for a paper."""

from __future__ import annotations

from pathlib import Path

import click

from s3lora.cli.options import out_path
from s3lora.errors import ParameterError
from s3lora.io.atomic import write_file


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@out_path("The file to write: .pdf or .svg. One that is there already is replaced.", required=True)
@click.option(
    "--figure",
    type=click.Choice(["heat", "spectra", "agreement"]),
    help="What to draw: scores by layer and projection, singular values of the modules to look at "
    "first, or how far methods agree.  [default: agreement for a ranking, else heat]",
)
@click.option(
    "-m",
    "--method",
    default="",
    metavar="LABEL",
    help="Of a ranking, the method to draw.  [default: the first]",
)
@click.option(
    "--top",
    type=click.IntRange(1, 60),
    default=6,
    show_default=True,
    help="How many modules the spectra show.",
)
def plot(result: Path, output: Path, figure: str | None, method: str, top: int) -> None:
    """Draw a figure of RESULT as a vector, for a paper.

    RESULT is what scan, prune --dry-run, rank or compare wrote with --format
    json. Needs the extra `plot`; in a checkout of the repository:
    pip install '.[plot]'.
    """
    from s3lora.report import Ranking
    from s3lora.report.plot import FORMS, render
    from s3lora.report.reading import load

    form = output.suffix.lower().removeprefix(".")
    if form not in FORMS:
        raise ParameterError(
            f"{output} does not end in .pdf or .svg", hint="a figure for a paper is a vector"
        )
    loaded = load(result)
    several = isinstance(loaded, Ranking) and len(loaded.tables) > 1
    asked = figure or ("agreement" if several and not method else "heat")
    write_file(output, render(loaded, asked, form, method=method, top=top))
    click.echo(f"wrote {output}", err=True)
