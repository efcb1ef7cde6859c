"""What a study runs, from a TOML file: models, adapters, methods, and what is measured."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from s3lora.edits import EDITORS
from s3lora.errors import DataError, ParameterError
from s3lora.lab.probes import Openings
from s3lora.lab.recipes import RECIPES
from s3lora.lab.study.rows import RANDOM, REFERENCES
from s3lora.lab.study.variants import VARIANTS
from s3lora.lab.train import Settings
from s3lora.methods import make_method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter that the study trains."""

    name: str
    recipe: str
    """A name of `s3lora.lab.recipes.RECIPES`."""
    settings: Settings = field(default_factory=Settings)
    openings: Openings = field(default_factory=Openings)
    """What the refusal margin compares for this adapter."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to choose modules and what becomes of them."""

    method: str
    """A method of `s3lora methods`, or a variant of `s3lora.lab.study.variants`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    edit: str = "drop"
    edit_params: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    """What the tables call it; the method's name if empty."""
    by_layer: bool = False
    """Choose whole layers."""
    within: bool = False
    """Choose the same share within each projection."""
    only: tuple[str, ...] = ()
    """Choose among the modules of these projections alone; the share is of all modules."""
    shares: tuple[float, ...] = ()
    """Some of the study's shares; empty: all of them."""
    replies: bool = False
    """Whether the main table has a row for it: replies are written at the main share."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.label or self.method


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured in a cell."""

    harmful: int = 40
    """Harmful prompts for the refusal margin."""
    harmless: int = 12
    """Harmless prompts for the same margin; they are asked at the first share alone."""
    rows: int = 24
    """Held-out rows for the response loss."""
    longest: int = 64
    """Response tokens of a held-out row, at most."""
    replies: int = 100
    """Prompts of each kind that are replied to for the main table; 0: none."""
    new_tokens: int = 24
    """Tokens of a reply."""
    random_replies: int = 5
    """How many random draws are replied with."""


@dataclass(frozen=True, slots=True)
class Study:
    """A whole study."""

    results: Path
    """Where rows, tables and plots go: the folder of the TOML file."""
    folder: Path
    """Where models and adapters are kept; they may be deleted when all is measured."""
    model: str
    """The model before alignment."""
    align: Trained
    """The refusal adapter that, merged, gives the aligned model."""
    adapters: tuple[Trained, ...]
    choices: tuple[Choice, ...]
    harmful: tuple[str, ...] = ("advbench", "strongreject", "do-not-answer")
    """Data sets of harmful prompts."""
    harmless: tuple[str, ...] = ("alpaca",)
    """Data sets of harmless rows."""
    shares: tuple[float, ...] = (0.25, 0.5, 0.1, 0.05)
    """Shares of the modules to choose; the first is that of the main table and is run first."""
    draws: int = 20
    """Random choices at every share."""
    causal: tuple[str, ...] = ()
    """Adapters whose modules are taken out, and kept, one at a time; first order is for all."""
    sizes: Sizes = field(default_factory=Sizes)
    plotted: tuple[str, ...] = ()
    """The methods that the plots show, at most about seven; empty: all."""


def read_study(path: Path) -> Study:
    """The study that a TOML file describes; its results go beside the file.

    Raises:
        DataError: if the file cannot be read.
        ParameterError: if it holds what no study has, or two adapters or choices of one name.
    """
    try:
        with path.open("rb") as file:
            told = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="give a TOML file") from error
    study = {**told.pop("study", {})}
    for kind in ("harmful", "harmless"):
        if kind in study:
            study[kind] = [_beside(path, reference) for reference in study[kind]]
    parts = {
        "results": path.parent,
        "folder": path.parent / study.pop("folder", "work"),
        "align": _trained(told.pop("align", {"name": "refusal", "recipe": "refusal"})),
        "adapters": tuple(map(_trained, told.pop("adapter", []))),
        "choices": tuple(_made(Choice, row, "[[method]]") for row in told.pop("method", [])),
        "sizes": _made(Sizes, told.pop("sizes", {}), "[sizes]"),
    }
    if told:
        raise ParameterError(
            f"{path} has a part {next(iter(told))!r} that no study has",
            hint="study, align, adapter, method, sizes",
        )
    for key in parts.keys() & study.keys():
        raise ParameterError(f"[study] has no {key!r}", hint="it is a part of its own")
    made = _made(Study, {**study, **parts}, "[study]")
    _refuse_doubles("adapter", [adapter.name for adapter in (made.align, *made.adapters)])
    _refuse_doubles("method", [f"{choice.name} by {choice.edit}" for choice in made.choices])
    _refuse_unknown(made)
    return made


def _refuse_unknown(study: Study) -> None:
    """Names and shares that would only be missed in the middle of a run."""
    adapters = [adapter.name for adapter in study.adapters]
    _refuse_stray("an adapter for [study] causal", study.causal, adapters)
    for trained in (study.align, *study.adapters):
        _refuse_stray(f"a recipe for {trained.name}", (trained.recipe,), list(RECIPES))
    for choice in study.choices:
        _refuse_stray(f"an edit for {choice.name}", (choice.edit,), ["drop", *EDITORS])
        _refuse_stray(f"a share for {choice.name}", choice.shares, list(study.shares))
        if isinstance(choice.only, str):
            raise ParameterError(
                f"only={choice.only!r} of {choice.name} is no list",
                hint=f"only = [{choice.only!r}]",
            )
        if choice.name in (RANDOM, *REFERENCES):
            raise ParameterError(
                f"[[method]] {choice.name!r} is in every study", hint="leave it out"
            )
        if choice.method != "gate" and choice.method not in VARIANTS:
            make_method(choice.method, choice.params)


def _refuse_stray(what: str, given: Sequence[object], known: Sequence[object]) -> None:
    for value in given:
        if value not in known:
            listed = ", ".join(map(str, known))
            raise ParameterError(f"{value!r} is not {what}", hint=f"one of {listed}")


def _beside(path: Path, reference: str) -> str:
    """A data set by name, or a file beside the study's."""
    file = path.parent / reference
    return str(file) if file.is_file() else reference


def _trained(row: Mapping[str, Any]) -> Trained:
    own = {key: row[key] for key in ("name", "recipe") if key in row}
    openings = {key: row[key] for key in ("refusal", "compliance", "refusing") if key in row}
    rest = {key: value for key, value in row.items() if key not in own and key not in openings}
    parts = {
        "settings": _made(Settings, rest, "an adapter"),
        "openings": _made(Openings, openings, "an adapter"),
    }
    return _made(Trained, {**own, **parts}, "an adapter")


def _made(kind: type[_T], row: Mapping[str, Any], what: str) -> _T:
    """A dataclass of a table's values; a list becomes a tuple."""
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in row:
        if key not in known:
            raise ParameterError(f"{what} has no {key!r}", hint=f"it takes {', '.join(known)}")
    for key, entry in known.items():
        needed = entry.default is entry.default_factory is dataclasses.MISSING
        if needed and key not in row:
            raise ParameterError(f"{what} lacks {key!r}", hint=f"it takes {', '.join(known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return kind(**values)


def _refuse_doubles(what: str, names: list[str]) -> None:
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise ParameterError(f"two of one name: {what} {double!r}", hint="give one a label")
