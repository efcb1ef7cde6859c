"""Options that several commands share, and what they mean to the library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import numpy as np

from s3lora.adapter import Adapter
from s3lora.cli.inputs import spares_inputs
from s3lora.edits import Editor, make_editor
from s3lora.errors import ParameterError
from s3lora.findings import SEVERITIES
from s3lora.io import open_adapter
from s3lora.io.checkpoint import Checkpoint
from s3lora.io.places import expanded, snapshot_of
from s3lora.methods import Method, make_method, params_of
from s3lora.report.formats import FORMS
from s3lora.scan import scan
from s3lora.scores import ScoreTable
from s3lora.selection import (
    Among,
    ByLayer,
    Fraction,
    Named,
    Outliers,
    Policy,
    Threshold,
    TopK,
    default_policy,
)

F = TypeVar("F", bound=Callable[..., Any])

ADAPTER = click.argument("adapter", type=click.Path())


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order of the help."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


METHOD: Callable[[Any], Any] = together(
    click.option(
        "-m", "--method", default="s3lora", show_default=True, help="See `s3lora methods`."
    ),
    click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the method; may be repeated.",
    ),
)

WEIGHTS: Callable[[Any], Any] = together(
    click.option(
        "--base",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Checkpoint folder of the base model, in safetensors.",
    ),
    click.option(
        "--aligned",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Checkpoint folder of the aligned model.",
    ),
)

CHOOSING: Callable[[Any], Any] = together(
    click.option("--top-k", type=int, metavar="K", help="Choose exactly K modules."),
    click.option("--fraction", type=float, metavar="F", help="Choose this share, rounded up."),
    click.option("--threshold", type=float, metavar="T", help="Choose scores at or beyond T."),
    click.option(
        "--outliers",
        type=float,
        metavar="Z",
        help="Choose scores beyond median + Z·1.4826·MAD.",
    ),
    click.option(
        "--modules",
        multiple=True,
        metavar="NAMES",
        help="Choose these modules: full names, separated by commas; may be repeated.",
    ),
    click.option(
        "--granularity",
        type=click.Choice(["module", "layer"]),
        default="module",
        show_default=True,
        help="Choose modules, or whole layers by the mean of their modules' scores.",
    ),
    click.option(
        "--among",
        metavar="PROJECTIONS",
        help="Choose among the modules of these alone, such as v_proj,o_proj.",
    ),
)

EDITS = ("drop", "zero", "project", "flatten", "truncate", "scale", "merge")

EDITING: Callable[[Any], Any] = together(
    click.option(
        "--edit",
        type=click.Choice(EDITS),
        default="drop",
        show_default=True,
        help="What becomes of the chosen modules: docs/edits.md.",
    ),
    click.option(
        "-e",
        "--edit-param",
        "edit_params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the edit; may be repeated.",
    ),
    click.option(
        "--with",
        "safe",
        type=click.Path(),
        metavar="SAFE",
        help="merge: the adapter to merge with.",
    ),
)

FAILING: Callable[[Any], Any] = together(
    click.option(
        "--fail-on",
        type=click.Choice(SEVERITIES),
        default="medium",
        show_default=True,
        help="Exit with 1 from findings of this severity on.",
    ),
    click.option(
        "--gate",
        metavar="RULE=VALUE",
        help="Exit with 1 too if a score is beyond outliers=Z or threshold=T.",
    ),
)

OUTPUT: Callable[[Any], Any] = together(
    click.option(
        "--format",
        "form",
        type=click.Choice(FORMS),
        default="table",
        show_default=True,
        help="What to print.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show every row and every note."),
)


TABLE_OR_JSON = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="What to print.",
)


def checkpoint_from(folder: Path | None) -> Checkpoint | None:
    """The checkpoint that --base or --aligned names."""
    return None if folder is None else Checkpoint(snapshot_of(expanded(folder)))


def editor_from(
    name: str, params: tuple[str, ...], safe: str | None, adapter: Adapter, table: ScoreTable
) -> Editor | Literal["drop", "zero"]:
    """The edit that --edit, -e and --with ask for; `table` is the scan that was made already."""
    values: dict[str, Any] = dict(values_of("-e", params))
    if (name == "merge") != (safe is not None):
        raise ParameterError("--edit merge and --with SAFE belong together", hint="give both")
    if name == "drop" or name == "zero":
        if values:
            raise ParameterError(f"--edit {name} has no parameters", hint="leave -e out")
        return "drop" if name == "drop" else "zero"
    if "safe" in values:
        raise ParameterError("safe is no parameter of -e", hint="name the adapter by --with SAFE")
    if safe is not None:
        values["safe"] = open_adapter(safe)
    if name == "flatten" and "level" not in values:
        method = make_method("s3lora", {"keep": values.get("keep", 5)})
        scanned = (table.method, table.params) == (method.name, params_of(method))
        scores = (table if scanned else scan(adapter, method)).scores
        values["level"] = median([score.parts["ssi"] for score in scores])
    return make_editor(name, values)


def method_from(name: str, params: tuple[str, ...]) -> Method:
    """The method that -m and -p ask for."""
    return make_method(name, values_of("-p", params))


def values_of(flag: str, params: Iterable[str]) -> dict[str, str]:
    """The values of a repeated NAME=VALUE option."""
    values = {}
    for param in params:
        key, mark, value = param.partition("=")
        if not mark:
            raise ParameterError(f"{flag} {param!r} is no NAME=VALUE", hint="such as -p keep=5")
        values[key] = value
    return values


def policy_from(table: ScoreTable, options: dict[str, Any]) -> Policy:
    """The policy that the options of `CHOOSING` ask for; the default one without any."""
    makers: dict[str, Callable[[Any], Policy]] = {
        "top_k": TopK,
        "fraction": Fraction,
        "threshold": Threshold,
        "outliers": Outliers,
        "modules": Named,
    }
    for key in ("threshold", "outliers"):
        _refuse_non_finite(f"--{key}", options[key])
    asked = [key for key in makers if options[key] not in (None, ())]
    if len(asked) > 1:
        flags = " and ".join("--" + key.replace("_", "-") for key in asked)
        raise ParameterError(f"{flags} cannot be combined", hint="choose in one way")
    by_layer = options["granularity"] == "layer"
    if asked == ["modules"]:
        return _named(options)
    if asked:
        policy = makers[asked[0]](options[asked[0]])
        policy = ByLayer(policy) if by_layer else policy
    else:
        policy = default_policy(table, by_layer=by_layer)
    projections = _listed(options["among"] or "")
    return policy if options["among"] is None else Among(projections, policy)


def _refuse_non_finite(flag: str, value: float | None) -> None:
    """A limit of NaN or Inf would silently choose nothing, or everything."""
    if value is not None and not math.isfinite(value):
        raise ParameterError(f"{flag} {value} is no limit", hint="give a finite number")


def _named(options: dict[str, Any]) -> Named:
    if options["granularity"] == "layer":
        raise ParameterError("--modules names modules, not layers", hint="leave --granularity out")
    if options["among"] is not None:
        raise ParameterError("--modules names modules already", hint="leave --among out")
    return Named(tuple(name for names in options["modules"] for name in _listed(names)))


def _listed(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def median(values: list[float]) -> float:
    """The median of SSIs; of none, an error."""
    if not values:
        raise ParameterError("no module has a score", hint="give the level: -e level=0.4")
    return float(np.median(values))


def gate_from(text: str) -> Policy:
    """The policy that --gate asks for."""
    key, _, value = text.partition("=")
    makers: dict[str, Callable[[float], Policy]] = {"outliers": Outliers, "threshold": Threshold}
    try:
        limit = float(value)
        _refuse_non_finite(f"--gate {key}", limit)
        return makers[key](limit)
    except (KeyError, ValueError) as error:
        raise ParameterError(
            f"--gate {text!r} is no gate", hint="--gate outliers=8 or --gate threshold=0.9"
        ) from error


def out_path(help_text: str, *, required: bool = False) -> Callable[[F], F]:
    """The option -o; see `s3lora.cli.inputs` for what it must not name."""
    option = click.option(
        "-o", "--output", type=click.Path(path_type=Path), required=required, help=help_text
    )
    return lambda command: option(spares_inputs("output")(command))
