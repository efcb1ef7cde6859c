"""`s3lora prune`: take the chosen modules out and write the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from s3lora.cli.options import (
    ADAPTER,
    CHOOSING,
    EDITING,
    FAILING,
    METHOD,
    OUTPUT,
    WEIGHTS,
    checkpoint_from,
    editor_from,
    gate_from,
    method_from,
    out_path,
    policy_from,
)
from s3lora.cli.output import emit, track
from s3lora.errors import ParameterError
from s3lora.findings import Finding
from s3lora.io import open_adapter
from s3lora.plan import plan
from s3lora.prune import apply, check_change, kept_findings
from s3lora.report import Report, gate_findings, make_report
from s3lora.report.alike import alike
from s3lora.report.escape import printable
from s3lora.report.formats import refuse_unfit
from s3lora.scan import scan as scan_adapter
from s3lora.targets import TARGETS


@click.command()
@ADAPTER
@METHOD
@WEIGHTS
@CHOOSING
@FAILING
@OUTPUT
@out_path("The folder to write; it must not exist yet.")
@EDITING
@click.option(
    "--target",
    type=click.Choice(list(TARGETS)),
    default="minimal",
    show_default=True,
    help="Whom to write for: " + "; ".join(f"{k} ({v})" for k, v in TARGETS.items()) + ".",
)
@click.option(
    "--fold-scale", is_flag=True, help="Write one scale and rank that every loader reads."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--force", is_flag=True, help="Move an existing output folder aside to NAME.old.")
@click.pass_context
def prune(
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
    edit: str,
    edit_params: tuple[str, ...],
    safe: str | None,
    target: str,
    fold_scale: bool,
    dry_run: bool,
    force: bool,
    **choosing: Any,
) -> None:
    """Take the chosen modules out of ADAPTER, or edit them, into a new folder.

    The source is not changed. The output appears whole or not at all, with a
    manifest (s3lora.json) and a section in its README.md. Where no module
    changes nothing is written, and the exit status is 2.
    """
    if output is None and not dry_run:
        raise ParameterError("no output folder", hint="give -o OUT, or --dry-run for the plan")
    refuse_unfit(Report, form)
    opened = open_adapter(adapter)
    scorer = method_from(method, params)
    rule = gate_from(gate) if gate else None
    known = {"base": checkpoint_from(base), "aligned": checkpoint_from(aligned)}
    table = scan_adapter(opened, scorer, **known, track=track)
    policy = policy_from(table, choosing)
    gated = gate_findings(table, rule, gate or "") if rule else ()
    planned = plan(
        opened,
        policy(table),
        edit=editor_from(edit, edit_params, safe, opened, table),
        **known,
        target=target,
        fold_scale=fold_scale,
    )
    kept: tuple[Finding, ...] = ()
    if output is not None and not dry_run:
        check_change(opened, planned)
        written = apply(opened, planned, output, table=table, policy=policy, force=force)
        kept = kept_findings(written, table, planned)
    report = make_report(opened, table, policy, chosen=planned.chosen, gated=gated, plan=planned)
    emit(report, form, None, verbose=verbose)
    if output is not None and not dry_run:
        click.echo(f"wrote {output}", err=True)
        for row in alike(kept):
            what = f"kept, {row.severity}: {row.message} ({row.rule}: {row.where})"
            click.echo(printable(what), err=True)
    ctx.exit(report.exit_code(fail_on))
