"""`s3lora scan`: score every module of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from s3lora.cli.options import (
    ADAPTER,
    CHOOSING,
    FAILING,
    METHOD,
    OUTPUT,
    WEIGHTS,
    checkpoint_from,
    gate_from,
    method_from,
    out_path,
    policy_from,
)
from s3lora.cli.output import emit_table, emit_text, track
from s3lora.io import open_adapter
from s3lora.report import Report, gate_findings, make_report
from s3lora.scan import scan as scan_adapter


@click.command()
@ADAPTER
@METHOD
@WEIGHTS
@CHOOSING
@FAILING
@OUTPUT
@out_path("Write the report to this file instead of stdout.")
@click.pass_context
def scan(
    ctx: click.Context,
    /,
    adapter: str,
    method: str,
    params: tuple[str, ...],
    base: Path | None,
    aligned: Path | None,
    fail_on: Any,
    gate: str | None,
    form: str,
    verbose: bool,
    output: Path | None,
    **choosing: Any,
) -> None:
    """Score every module of ADAPTER and say what is odd about its files.

    ADAPTER is a folder as PEFT saves it, or a .safetensors file with its
    adapter_config.json beside it. It is only read.
    """
    opened = open_adapter(adapter)
    scorer = method_from(method, params)
    rule = gate_from(gate) if gate else None
    known = {"base": checkpoint_from(base), "aligned": checkpoint_from(aligned)}
    table = scan_adapter(opened, scorer, **known, track=track)
    policy = policy_from(table, choosing)
    gated = gate_findings(table, rule, gate or "") if rule else ()
    report = make_report(opened, table, policy, chosen=policy(table), gated=gated)
    render(report, form, output, verbose=verbose)
    ctx.exit(report.exit_code(fail_on))


def render(report: Report, form: str, output: Path | None, *, verbose: bool) -> None:
    """Print a report in the form asked for; only that form is imported."""
    if form == "json":
        from s3lora.report.json import render as render_json

        emit_text(render_json(report), output)
    else:
        from s3lora.report.table import show

        emit_table(lambda console: show(report, console, verbose=verbose), output)
