"""The formats of a result, by name: here one is looked up, and only then imported."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from s3lora.errors import ParameterError
from s3lora.report import Comparison, Ranking, Report, Result

if TYPE_CHECKING:
    from rich.console import Console

TITLES: dict[type[Any], str] = {
    Report: "a scan or a plan to prune",
    Ranking: "a ranking",
    Comparison: "a comparison",
}
"""What each kind of result is called."""

RENDERERS: dict[str, dict[type[Any], str]] = {
    "json": dict.fromkeys(TITLES, "s3lora.report.json"),
    "html": dict.fromkeys(TITLES, "s3lora.report.html"),
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
    "csv": dict.fromkeys(TITLES, "s3lora.report.csv"),
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
        ParameterError: if it cannot, or a package that the format needs is missing.
    """
    if form == "table":
        return
    if kind in RENDERERS[form]:
        _renderer(kind, form)
        return
    fit = ["table", *(name for name, kinds in RENDERERS.items() if kind in kinds)]
    made = " and ".join(TITLES[other] for other in RENDERERS[form])
    raise ParameterError(
        f"--format {form} is for {made}, not for {TITLES[kind]}",
        hint=f"one of {', '.join(fit)}",
    )


def render(result: Result, form: str) -> str:
    """A result as text in a format.

    Raises:
        ParameterError: if there is no such format for it.
    """
    refuse_unfit(type(result), form)
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
