"""The formats of a result, by name: here one is looked up, and only then imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from s3lora.errors import ParameterError
from s3lora.report import Comparison, Ranking, Report, Result

if TYPE_CHECKING:
    from rich.console import Console

KINDS: tuple[type[Any], ...] = (Report, Ranking, Comparison)
"""The kinds of result; each format is for all of them."""

RENDERERS: dict[str, dict[type[Any], str]] = {
    "json": dict.fromkeys(KINDS, "s3lora.report.json"),
    "html": dict.fromkeys(KINDS, "s3lora.report.html"),
    "sarif": {
        Report: "s3lora.report.sarif",
        Ranking: "s3lora.report.sarif_ranking",
        Comparison: "s3lora.report.sarif_comparison",
    },
    "card": {
        Report: "s3lora.report.card",
        Ranking: "s3lora.report.card_ranking",
        Comparison: "s3lora.report.card_comparison",
    },
    "csv": dict.fromkeys(KINDS, "s3lora.report.csv"),
}
"""For each format and kind of result the module whose `render(result) -> str` makes it."""

TABLES: dict[type[Any], str] = {
    Report: "s3lora.report.table",
    Ranking: "s3lora.report.ranking",
    Comparison: "s3lora.report.comparison",
}
"""For each kind of result the module whose `show` prints it at a terminal."""

FORMS = ("table", *RENDERERS)
"""The names, for the option --format."""


def refuse_unfit(kind: type[Any], form: str) -> None:
    """See to it that a kind of result can be rendered so, before it costs anything.

    Raises:
        ParameterError: if a package that the format needs is missing.
    """
    if form != "table":
        _renderer(kind, form)


def render(result: Result, form: str) -> str:
    """A result as text in a format.

    Raises:
        ParameterError: if a package that the format needs is missing.
    """
    return _renderer(type(result), form)(result)


def _renderer(kind: type[Any], form: str) -> Callable[[Result], str]:
    try:
        make: Callable[[Result], str] = import_module(RENDERERS[form][kind]).render
    except ModuleNotFoundError as error:
        raise ParameterError(
            f"--format {form} needs {error.name}, which is not installed",
            hint=f"pip install {error.name}, or choose another format",
        ) from error
    return make


def show(result: Result, console: Console, *, verbose: bool) -> None:
    """Print a result on a terminal."""
    import_module(TABLES[type(result)]).show(result, console, verbose=verbose)
