"""`s3lora check`: all adapters of a repository, for a pipeline or a pre-commit hook."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s3lora.cli.inputs import refuse_inputs
from s3lora.cli.options import (
    FAILING,
    METHOD,
    TABLE_OR_JSON,
    WEIGHTS,
    checkpoint_from,
    gate_from,
    method_from,
)
from s3lora.cli.output import emit_table, emit_text
from s3lora.errors import AdapterError, ParameterError, S3LoraError
from s3lora.findings import Severity
from s3lora.io import open_adapter
from s3lora.io.atomic import write_file
from s3lora.io.checkpoint import Checkpoint
from s3lora.io.layouts import CONFIG
from s3lora.io.layouts import WEIGHTS as WEIGHTS_FILE
from s3lora.io.search import Hidden, Link, Unopened, search
from s3lora.methods import Method, params_of
from s3lora.report import Report, gate_findings, make_report
from s3lora.report.checked import Checked, Counts, Unfollowed, checked, failed, render
from s3lora.scan import scan
from s3lora.selection import Policy, TopK

if TYPE_CHECKING:
    from s3lora.report.sarif import Entry, Unreadable

SIGNS = ("adapter_model.pt", "adapter_model.bin", CONFIG, WEIGHTS_FILE)
"""Files that a failure may be about, the likeliest last."""


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@METHOD
@WEIGHTS
@FAILING
@click.option(
    "--accept",
    multiple=True,
    metavar="PATTERN",
    help="An adapter that cannot be judged, or a link, that is no failure; may be repeated.",
)
@TABLE_OR_JSON
@click.option("-v", "--verbose", is_flag=True, help="Show low findings too.")
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
    base: Path | None,
    aligned: Path | None,
    fail_on: Severity,
    gate: str | None,
    accept: tuple[str, ...],
    form: str,
    verbose: bool,
    sarif: Path | None,
) -> None:
    """Check every adapter in PATHS: what was found in each, in a line.

    A folder is searched; links to folders in it are named and not followed, and
    hidden folders are counted. A file stands for the adapter that it belongs
    to. Without PATHS it is the current folder. The exit status is the gravest
    of all: 2 if one cannot be opened, else 1, 3 or 0.

    --accept takes an adapter's path as it is printed here; * and ? stand for
    anything. It accepts that it cannot be judged, never a finding or an error.
    """
    scorer, rule = method_from(method, params), gate_from(gate) if gate else None
    if sarif is not None:
        refuse_inputs(sarif, paths or (Path(),))
    matrices = {"base": checkpoint_from(base), "aligned": checkpoint_from(aligned)}
    _refuse_missing(scorer, matrices)
    judge = _Judge(scorer, rule, gate or "", fail_on, matrices)
    output = _Output(form, verbose, sarif)
    unused = dict.fromkeys(accept)
    for item in search(paths or (Path(),)):
        if isinstance(item, Hidden):
            output.counts.hidden += 1
            continue
        path = item if isinstance(item, Path) else item.path
        patterns = [pattern for pattern in accept if _matches(path, pattern)]
        accepted = False
        if isinstance(item, Unopened):
            output.failure(str(path), item.error)
        elif isinstance(item, Link):
            accepted = bool(patterns) and item.behind == "adapters"
            output.link(Unfollowed(str(path), item.target, item.behind, accepted))
        else:
            accepted = output.adapter(judge, path, accept=bool(patterns))
        for pattern in patterns if accepted else ():
            unused.pop(pattern, None)
    output.end(
        {
            "paths": [str(path) for path in paths or (Path(),)],
            "method": {"name": scorer.name, "params": dict(params_of(scorer))},
            "fail_on": fail_on,
            "gate": gate,
            "accept": list(accept),
        }
    )
    for pattern in unused:
        click.echo(f"--accept {pattern} accepts nothing here: remove it", err=True)
    ctx.exit(output.counts.status)


def _refuse_missing(method: Method, matrices: dict[str, Checkpoint | None]) -> None:
    """Say once, and not for each adapter, that the method needs weights that are not given."""
    missing = sorted(role for role in method.needs if matrices[role] is None)
    if missing:
        raise ParameterError(
            f"the method {method.name} needs the {' and the '.join(missing)} weights",
            hint="give " + " and ".join(f"--{role} DIR" for role in missing),
        )


def _matches(path: Path, pattern: str) -> bool:
    """Whether a path is meant by a pattern of --accept; `./` before either changes nothing."""
    return fnmatchcase(path.as_posix(), os.path.normpath(pattern).replace(os.sep, "/"))


@dataclass(frozen=True)
class _Judge:
    """What every adapter is put through."""

    method: Method
    rule: Policy | None
    gate: str
    fail_on: Severity
    matrices: dict[str, Checkpoint | None]

    def report(self, ref: Path) -> tuple[Report, tuple[str, ...]]:
        """A scan in which nothing is chosen, and notes on how it was made."""
        try:
            opened = open_adapter(ref)
            notes: tuple[str, ...] = ()
            try:
                base, aligned = self.matrices["base"], self.matrices["aligned"]
                table = scan(opened, self.method, base=base, aligned=aligned)
            except ParameterError as error:
                if self.method.needs or not any(self.matrices.values()):
                    raise
                table = scan(opened, self.method)
                notes = (f"scored without the weights that were given: {error}",)
            gated = gate_findings(table, self.rule, self.gate) if self.rule else ()
            return make_report(opened, table, TopK(0), chosen=(), gated=gated), notes
        except OSError as error:
            raise AdapterError(
                f"cannot read {ref}: {error.strerror or error}",
                hint="check the path and its rights",
            ) from error


class _Output:
    """Prints each adapter when it is done, and keeps of it only what is needed at the end."""

    def __init__(self, form: str, verbose: bool, sarif: Path | None) -> None:
        self.counts = Counts()
        self._table = form == "table"
        self._verbose = verbose
        self._sarif = sarif
        self._rows: list[Checked] = []
        self._links: list[Unfollowed] = []
        self._entries: list[Entry] = []
        self._unreadable: list[Unreadable] = []

    def adapter(self, judge: _Judge, ref: Path, *, accept: bool) -> bool:
        """Judge an adapter; returns whether it was accepted though it cannot be judged."""
        try:
            report, notes = judge.report(ref)
        except S3LoraError as error:
            return self.failure(str(ref), error, accept=accept)
        row = checked(report, judge.fail_on, accepted=accept, notes=notes)
        self._count(row)
        if self._table:
            from s3lora.report.brief import show_report

            emit_table(partial(show_report, report, row, verbose=self._verbose), None)
        if self._sarif is not None:
            from s3lora.report.sarif import entry_of

            self._entries.append(entry_of(report))
        return row.accepted

    def failure(self, ref: str, error: S3LoraError, *, accept: bool = False) -> bool:
        """An adapter of which nothing was judged; returns whether it was accepted."""
        row = failed(ref, error, accepted=accept)
        self._count(row)
        if self._table:
            from s3lora.report.brief import show_failure

            emit_table(partial(show_failure, row, error), None)
        if not row.accepted:
            self._not_read(ref, str(error), _weights_of(Path(ref)))
        return row.accepted

    def link(self, link: Unfollowed) -> None:
        """A link that was not followed."""
        self.counts.add(link)
        if self._table:
            from s3lora.report.brief import show_link

            emit_table(partial(show_link, link), None)
        else:
            self._links.append(link)
        if link.status:
            self._not_read(link.path, f"a link to {link.target}, which was not followed", link.path)

    def _count(self, row: Checked) -> None:
        self.counts.add(row)
        if not self._table:
            self._rows.append(row)

    def _not_read(self, ref: str, reason: str, file: str) -> None:
        if self._sarif is not None:
            from s3lora.report.sarif import Unreadable

            self._unreadable.append(Unreadable(ref, reason, file))

    def end(self, settings: dict[str, Any]) -> None:
        """The counts, the JSON, and the file for code scanning."""
        if not self._table:
            emit_text(render(self._rows, self._links, self.counts, settings), None)
        elif self.counts.adapters or self.counts.links:
            from s3lora.report.brief import show_counts

            emit_table(partial(show_counts, self.counts), None)
        if not self.counts.adapters:
            click.echo("there is no adapter here", err=True)
        if self._sarif is not None:
            from s3lora.report.sarif import render_all

            write_file(self._sarif, render_all(self._entries, self._unreadable))
            click.echo(f"wrote {self._sarif}", err=True)


def _weights_of(ref: Path) -> str:
    """The file that a failure is about."""
    for path in (ref, *(ref / name for name in reversed(SIGNS))):
        try:
            if path.is_file():
                return str(path)
        except OSError:
            continue
    return str(ref)
