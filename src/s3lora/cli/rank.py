"""`s3lora rank`: several methods on one adapter, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from s3lora.cli.options import ADAPTER, OUTPUT, WEIGHTS, checkpoint_from, out_path, values_of
from s3lora.cli.output import emit, track
from s3lora.io import open_adapter
from s3lora.methods import make_method
from s3lora.report import Ranking, make_ranking
from s3lora.report.formats import refuse_unfit
from s3lora.scan import scan as scan_adapter
from s3lora.selection import paper_k

USUAL = ("s3lora", "spectrum", "magnitude", "rows", "fingerprint", "random", "last-layers")
"""The methods without -m: those that need nothing but the adapter."""


@click.command()
@ADAPTER
@click.option(
    "-m",
    "--method",
    "methods",
    multiple=True,
    metavar="NAME[:KEY=VALUE,…]",
    help="A method, with parameters after a colon; may be repeated.  "
    f"[default: {', '.join(USUAL)}]",
)
@WEIGHTS
@click.option(
    "--top-k",
    type=click.IntRange(min=0),
    metavar="K",
    help="How many modules count as the top.  [default: 10 of 128, rounded up]",
)
@OUTPUT
@out_path("Write the result to this file instead of stdout.")
def rank(
    adapter: str,
    methods: tuple[str, ...],
    base: Path | None,
    aligned: Path | None,
    top_k: int | None,
    form: str,
    verbose: bool,
    output: Path | None,
) -> None:
    """Rank the modules of ADAPTER by several methods and say how far they agree.

    Agreement is Spearman's rank correlation and the share of the top K that two
    methods have in common. The exit status is 0 whatever they say.
    """
    refuse_unfit(Ranking, form)
    opened = open_adapter(adapter)
    known = {"base": checkpoint_from(base), "aligned": checkpoint_from(aligned)}
    tables = []
    for asked in methods or USUAL:
        name, _, params = asked.partition(":")
        method = make_method(name, values_of("-m", filter(None, params.split(","))))
        tables.append(scan_adapter(opened, method, **known, track=track))
    k = paper_k(len(opened.names)) if top_k is None else top_k
    emit(make_ranking(opened, tuple(tables), k), form, output, verbose=verbose)
