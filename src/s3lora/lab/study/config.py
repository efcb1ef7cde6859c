"""What a study runs, read from a TOML file and checked before anything is run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from s3lora.edits import EDITORS
from s3lora.errors import DataError, ParameterError
from s3lora.lab.probes import Openings
from s3lora.lab.recipes import RECIPES
from s3lora.lab.settings import Settings
from s3lora.lab.study.parts import Choice, Sizes, Study, Trained
from s3lora.lab.study.rows import RANDOM, REFERENCES
from s3lora.lab.study.variants import VARIANTS
from s3lora.methods import make_method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Choice", "Sizes", "Study", "Trained", "read_study"]

ALIGNED_BY = "aligned_by"
ALIKE = ("model", "harmful", "harmless", "align")
"""What a study has from the one that it is aligned by."""

OWN = ("name", "recipe", "aligned", "defence", "defence_params")
"""What of an adapter's table is neither settings nor openings."""

_T = TypeVar("_T")


def read_study(path: Path) -> Study:
    """The study that a TOML file describes; its results go beside the file.

    Raises:
        DataError: if the file cannot be read.
        ParameterError: if it holds what no study has, or two adapters or choices of one name.
    """
    told = _toml(path)
    study = {**told.pop("study", {})}
    borrowed = _borrowed(path, study, told) if ALIGNED_BY in study else {}
    for kind in ("harmful", "harmless"):
        if kind in study:
            study[kind] = [_beside(path, reference) for reference in study[kind]]
    parts = {
        "results": path.parent,
        "folder": path.parent / study.pop("folder", "work"),
        "align": _trained(told.pop("align", {"name": "refusal", "recipe": "refusal"})),
        "aligners": tuple(map(_trained, told.pop("aligner", []))),
        "adapters": tuple(map(_trained, told.pop("adapter", []))),
        "choices": tuple(_made(Choice, row, "[[method]]") for row in told.pop("method", [])),
        "sizes": _made(Sizes, told.pop("sizes", {}), "[sizes]"),
    }
    if told:
        raise ParameterError(
            f"{path} has a part {next(iter(told))!r} that no study has",
            hint="study, align, aligner, adapter, method, sizes",
        )
    for key in parts.keys() & study.keys():
        raise ParameterError(f"[study] has no {key!r}", hint="it is a part of its own")
    made = _made(Study, {**study, **parts, **borrowed}, "[study]")
    trained = (made.align, *made.aligners, *made.adapters)
    _refuse_doubles("adapter", [adapter.name for adapter in trained])
    _refuse_doubles("method", [f"{choice.name} by {choice.edit}" for choice in made.choices])
    _refuse_unknown(made)
    return made


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="give a TOML file") from error


def _borrowed(path: Path, study: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What a study takes from the one that it names: its model, data sets and aligned model.

    Raises:
        ParameterError: if this one has some of it too, or the other borrows itself.
    """
    named = study.pop(ALIGNED_BY)
    own = [key for key in ALIKE if key in study]
    if own or "align" in told:
        raise ParameterError(
            f"{path} has {(*own, '[align]')[0]} of its own, and takes it from {named}",
            hint=f"leave out it, or {ALIGNED_BY}",
        )
    file = path.parent / named
    if ALIGNED_BY in _toml(file).get("study", {}):
        raise ParameterError(f"{file} takes its aligned model from another", hint="name that one")
    other = read_study(file)
    return {**{key: getattr(other, key) for key in ALIKE}, "aligned_folder": other.folder}


def _refuse_unknown(study: Study) -> None:
    """Names and shares that would only be missed in the middle of a run."""
    adapters = [adapter.name for adapter in study.adapters]
    _refuse_stray("an adapter for [study] causal", study.causal, adapters)
    for trained in (study.align, *study.aligners, *study.adapters):
        _refuse_stray(f"a recipe for {trained.name}", (trained.recipe,), list(RECIPES))
        _refuse_guard(study, trained)
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


def _refuse_guard(study: Study, trained: Trained) -> None:
    """A defence that does not exist or fit, and an aligned model that is not there."""
    guard, aligns = trained.guard(), trained not in study.adapters
    if trained.defence_params and not guard:
        raise ParameterError(
            f"{trained.name} has defence_params and no defence", hint='defence = "…"'
        )
    if aligns and (trained.aligned or (guard and "base" in guard.needs)):
        what = f"defence={trained.defence!r}" if guard else f"aligned={trained.aligned!r}"
        raise ParameterError(
            f"{trained.name} aligns a model, so {what} is nothing for it",
            hint="it is for an adapter that is trained on an aligned model",
        )
    if trained.aligned:
        names = [aligner.name for aligner in study.aligners]
        _refuse_stray(f"an [[aligner]] for {trained.name}", (trained.aligned,), names)


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
    own = {key: row[key] for key in OWN if key in row}
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
