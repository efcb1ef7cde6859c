"""The command line: each command parses, calls the library once, and renders what it returns."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from s3lora._version import __version__
from s3lora.cli.check import check
from s3lora.cli.compare import compare
from s3lora.cli.demo import demo
from s3lora.cli.eval import evaluate
from s3lora.cli.extrapolate import extrapolate
from s3lora.cli.gate import gate
from s3lora.cli.lab import lab
from s3lora.cli.methods import methods
from s3lora.cli.plan import plan
from s3lora.cli.plot import plot
from s3lora.cli.prune import prune
from s3lora.cli.rank import rank
from s3lora.cli.report import report
from s3lora.cli.scan import scan
from s3lora.cli.streams import ending, say
from s3lora.cli.study import study
from s3lora.cli.train import train
from s3lora.errors import S3LoraError


class Commands(click.Group):
    """Every command in it ends without a traceback: see `ending`."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Parse what stands before the command's name; --help and --version print here."""
        with ending():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with ending():
            return super().invoke(ctx)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="s3lora")
def cli() -> None:
    """See from the weights alone what a LoRA adapter does, and take modules out.

    \b
    Exit status: 0 clean, 1 findings at or above --fail-on, 2 usage or error,
    3 cannot judge. A score alone never changes it, unless --gate asks for it.
    """


COMMANDS = (
    scan,
    prune,
    rank,
    compare,
    report,
    plot,
    check,
    extrapolate,
    methods,
    demo,
    train,
    evaluate,
    plan,
    study,
    lab,
)

for command in COMMANDS:
    cli.add_command(command)
lab.add_command(gate)


def main() -> None:
    """Entry point of the command `s3lora`."""
    if sys.stdout is None:  # closed by the caller: what is written to it is an error when it is due
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name in a file must not end in an encoding error
            stream.reconfigure(errors="backslashreplace")
    try:
        cli()
    except Exception:  # Python would end with 1, which means findings
        say(traceback.format_exc().rstrip(), "This is a fault of s3lora: please report it.")
        sys.exit(S3LoraError.exit_code)
