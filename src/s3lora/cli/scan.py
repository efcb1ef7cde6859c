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
from s3lora.cli.output import emit, track
from s3lora.io import open_adapter
from s3lora.report import Report, gate_findings, make_report
from s3lora.report.formats import refuse_unfit
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
    refuse_unfit(Report, form)
    opened = open_adapter(adapter)
    scorer = method_from(method, params)
    rule = gate_from(gate) if gate else None
    known = {"base": checkpoint_from(base), "aligned": checkpoint_from(aligned)}
    table = scan_adapter(opened, scorer, **known, track=track)
    policy = policy_from(table, choosing)
    gated = gate_findings(table, rule, gate or "") if rule else ()
    report = make_report(opened, table, policy, chosen=policy(table), gated=gated)
    emit(report, form, output, verbose=verbose)
    ctx.exit(report.exit_code(fail_on))
