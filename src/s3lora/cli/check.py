"""`s3lora check`: all adapters of a repository, for a pipeline or a pre-commit hook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from s3lora.cli.inputs import refuse_inputs
from s3lora.cli.options import FAILING, METHOD, gate_from, method_from
from s3lora.cli.output import emit_table
from s3lora.errors import AdapterError, S3LoraError, UnsupportedError
from s3lora.io import open_adapter
from s3lora.io.atomic import write_file
from s3lora.io.sources import CONFIG, WEIGHTS
from s3lora.methods import Method
from s3lora.report import Report, gate_findings, make_report
from s3lora.scan import scan
from s3lora.selection import Policy, TopK

SIGNS = frozenset((CONFIG, WEIGHTS, "adapter_model.bin", "adapter_model.pt"))
"""Files that make a folder an adapter."""
STATUSES = (0, 3, 1, 2)
"""From the mildest to the gravest: the status of several adapters is that of the gravest."""


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@METHOD
@FAILING
@click.option(
    "--sarif",
    type=click.Path(path_type=Path),
    help="Write all findings to this file, for code scanning.",
)
@click.pass_context
def check(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    method: str,
    params: tuple[str, ...],
    fail_on: Any,
    gate: str | None,
    sarif: Path | None,
) -> None:
    """Check every adapter in PATHS: what was found in each, in a line.

    A folder is searched, links in it are not followed; a file stands for the
    adapter that it belongs to. Without PATHS it is the current folder. The exit
    status is the gravest of all: 2 if one cannot be opened, else 1, 3 or 0.
    """
    from s3lora.report.brief import show_failure, show_report

    scorer, rule = method_from(method, params), gate_from(gate) if gate else None
    if sarif is not None:
        refuse_inputs(sarif, paths or (Path(),))
    reports: list[Report] = []
    failures: list[tuple[Path, S3LoraError]] = []
    status = 0
    for ref in found(paths or (Path(),)):
        try:
            report = _report(ref, scorer, rule, gate or "")
        except (AdapterError, UnsupportedError) as error:
            failures.append((ref, error))
            status = _graver(status, error.exit_code)
            emit_table(partial(show_failure, str(ref), error), None)
            continue
        reports.append(report)
        status = _graver(status, report.exit_code(fail_on))
        emit_table(partial(show_report, report), None)
    if not reports and not failures:
        click.echo("there is no adapter here", err=True)
    if sarif is not None:
        from s3lora.report.sarif import Unreadable, render_all

        told = [Unreadable(str(r), str(e), str(_weights_of(r))) for r, e in failures]
        write_file(sarif, render_all(reports, told))
        click.echo(f"wrote {sarif}", err=True)
    ctx.exit(status)


def found(paths: Iterable[Path]) -> list[Path]:
    """The adapters in some paths, each once, in order.

    Raises:
        AdapterError: if a path does not exist.
    """
    return list(dict.fromkeys(ref for path in paths for ref in sorted(_adapters(path))))


def _adapters(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise AdapterError(f"{path} does not exist", hint="give folders, or files of adapters")
    if path.is_file():
        named = path.suffix == ".safetensors" and path.name != WEIGHTS
        if SIGNS.intersection(beside.name for beside in path.parent.iterdir()):
            yield path if named else path.parent
        return
    for folder, inner, names in os.walk(path):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if SIGNS.intersection(names):
            yield Path(folder)


def _report(ref: Path, method: Method, rule: Policy | None, gate: str) -> Report:
    """A scan in which nothing is chosen."""
    opened = open_adapter(ref)
    table = scan(opened, method)
    gated = gate_findings(table, rule, gate) if rule else ()
    return make_report(opened, table, TopK(0), chosen=(), gated=gated)


def _weights_of(ref: Path) -> Path:
    """The file that a failure is about."""
    candidates = [ref, *(ref / name for name in sorted(SIGNS, reverse=True))]
    return next((path for path in candidates if path.is_file()), ref)


def _graver(a: int, b: int) -> int:
    return max(a, b, key=STATUSES.index)
