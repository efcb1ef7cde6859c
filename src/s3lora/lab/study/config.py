"""What a study runs, read from a TOML file and checked before anything is run."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from s3lora.edits import EDITORS
from s3lora.errors import DataError, ParameterError
from s3lora.lab.catalog import CATALOG
from s3lora.lab.models import BUILDERS
from s3lora.lab.probes import Openings
from s3lora.lab.recipes import RECIPES
from s3lora.lab.row_files import READERS, ending_of
from s3lora.lab.settings import Settings
from s3lora.lab.study.checks import has_control, refuse_unsafe_name, refuse_wrong_parameters
from s3lora.lab.study.parts import Choice, Sizes, Study, Trained
from s3lora.lab.study.rows import RANDOM, REFERENCES
from s3lora.lab.study.toml_values import checked, instance, refuse_unknown, shown, table, tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Choice", "Sizes", "Study", "Trained", "read_study"]

ALIGNED_BY = "aligned_by"
ALIKE = ("model", "harmful", "harmless", "align")
"""What a study has from the one that it is aligned by."""

PARTS = ("study", "align", "aligner", "adapter", "method", "sizes")
"""The tables of a file."""

OTHER_TABLES = "adapters are written as [[adapter]], methods as [[method]], each a table of its own"

LEAST = {"harmless": 0, "replies": 0, "random_replies": 0}
"""The least of each size; of all others it is 1."""

OWN = ("name", "recipe", "aligned", "defence", "defence_params")
"""What of an adapter's table is neither settings nor openings."""


def read_study(path: Path) -> Study:
    """The study that a TOML file describes; its results go beside the file.

    Raises:
        DataError: if the file cannot be read.
        ParameterError: if it holds what no study has, or two adapters or choices of one name.
    """
    document = _toml(path)
    study = {**table(document.pop("study", {}), "[study]")}
    borrowed = _borrowed(path, study, document) if ALIGNED_BY in study else {}
    for kind in ("harmful", "harmless"):
        if kind in study:
            references = checked(Study, kind, study[kind], "[study]")
            study[kind] = [_beside(path, reference, CATALOG, READERS) for reference in references]
    if "model" in study:
        model = checked(Study, "model", study["model"], "[study]")
        study["model"] = _beside(path, model, BUILDERS)
    folder = study.pop("folder", "work")
    if not isinstance(folder, str):
        raise ParameterError(
            f"[study] folder is {shown(folder)}, expected a valid string", hint='such as "work"'
        )
    if has_control(folder):
        raise ParameterError(
            f"[study] folder {shown(folder)} holds a control character", hint='such as "work"'
        )
    align = table(document.pop("align", {"name": "refusal", "recipe": "refusal"}), "[align]")
    methods = tables(document.pop("method", []), "[[method]]")
    parts = {
        "results": path.parent,
        "folder": path.parent / folder,
        "align": _trained(align, "[align]"),
        "aligners": tuple(_trained_of(document, "aligner")),
        "adapters": tuple(_trained_of(document, "adapter")),
        "choices": tuple(instance(Choice, row, "[[method]]") for row in methods),
        "sizes": instance(Sizes, table(document.pop("sizes", {}), "[sizes]"), "[sizes]"),
    }
    for part in document:
        near = get_close_matches(part, PARTS, n=1)
        nearest = f"did you mean {near[0]!r}? " if near else ""
        raise ParameterError(
            f"{path} has a part {part!r} that no study has",
            hint=f"{nearest}it has {', '.join(PARTS)}",
        )
    own = [f.name for f in fields(Study) if f.name not in {*parts, "aligned_folder"}]
    own += ["folder", ALIGNED_BY]
    for key in study:
        refuse_unknown("[study]", key, own, OTHER_TABLES)
    made = instance(Study, {**study, **parts, **borrowed}, "[study]", own)
    _refuse_out_of_range(made)
    trained = (made.align, *made.aligners, *made.adapters)
    for adapter in trained:
        refuse_unsafe_name("the adapter", adapter.name)
    _refuse_doubles("adapter", [adapter.name for adapter in trained])
    _refuse_doubles("method", [f"{choice.name} by {choice.edit}" for choice in made.choices])
    _refuse_unknown(made)
    return made


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:
        reason: object = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeError):
            reason = "it is not UTF-8"
        elif not isinstance(error, OSError | tomllib.TOMLDecodeError):
            reason = "it holds a whole number of too many digits"
        raise DataError(f"cannot read {path}: {reason}", hint="give a TOML file") from error


def _borrowed(path: Path, study: dict[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """What a study takes from the one that it names: its model, data sets and aligned model.

    Raises:
        ParameterError: if this one has some of it too, or the other borrows itself.
    """
    named = study.pop(ALIGNED_BY)
    if not isinstance(named, str):
        raise ParameterError(
            f"[study] {ALIGNED_BY} is {shown(named)}, expected a valid string",
            hint="the file of another study",
        )
    own = [key for key in ALIKE if key in study]
    if own or "align" in document:
        raise ParameterError(
            f"{path} has {(*own, '[align]')[0]} of its own, and takes it from {named}",
            hint=f"leave out it, or {ALIGNED_BY}",
        )
    file = path.parent / named
    if ALIGNED_BY in table(_toml(file).get("study", {}), "[study]"):
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
        if choice.name in (RANDOM, *REFERENCES):
            raise ParameterError(
                f"[[method]] {choice.name!r} is in every study", hint="leave it out"
            )
        refuse_wrong_parameters(choice)


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


def _beside(
    path: Path, reference: str, names: Collection[str], endings: Collection[str] = ()
) -> str:
    """A name as it is, or a path from the folder of the study's file.

    Args:
        path: The study's file.
        reference: A name of the catalogue, a name on a hub, or a path.
        names: Those of the catalogue.
        endings: Of file names: what ends so is a path, whether it is there or not.

    Raises:
        ParameterError: if it is a path from the working folder and not from that of the study.
    """
    if reference in names or reference.startswith("hub:"):
        return reference
    here = Path(reference).expanduser()
    place = path.parent / here
    if place.exists() or ending_of(here) in endings or here.is_absolute():
        return str(place)
    if here.exists():
        raise ParameterError(
            f"{path} names {reference!r}, which is in the working folder and not beside it",
            hint=f"paths are relative to the study's file: {path.parent}",
        )
    return reference


def _trained_of(document: dict[str, Any], kind: str) -> Iterator[Trained]:
    """The adapters of `[[adapter]]`, or those of `[[aligner]]`."""
    for row in tables(document.pop(kind, []), f"[[{kind}]]"):
        yield _trained(row, f"[[{kind}]]")


def _trained(row: Mapping[str, Any], part: str) -> Trained:
    name = row.get("name")
    what = f"{part} {name}" if isinstance(name, str) else part
    names = [field.name for kind in (Trained, Settings, Openings) for field in fields(kind)]
    names = [each for each in names if each not in ("settings", "openings")]
    for key in row:
        refuse_unknown(what, key, names)
    own = {key: row[key] for key in OWN if key in row}
    openings = {key: row[key] for key in ("refusal", "compliance", "refusing") if key in row}
    rest = {key: value for key, value in row.items() if key not in own and key not in openings}
    parts = {
        "settings": instance(Settings, rest, what),
        "openings": instance(Openings, openings, what),
    }
    return instance(Trained, {**own, **parts}, what, names)


def _refuse_out_of_range(study: Study) -> None:
    """Numbers that no cell can be measured with."""
    wrong = [share for share in study.shares if not 0 < share <= 1]
    if wrong or not study.shares:
        raise ParameterError(
            f"[study] shares are {list(study.shares)}",
            hint="at least one, each above 0 and up to 1",
        )
    counts = {"[study] draws": (study.draws, 0)}
    counts |= {
        f"[sizes] {field.name}": (getattr(study.sizes, field.name), LEAST.get(field.name, 1))
        for field in fields(Sizes)
    }
    for what, (count, least) in counts.items():
        if count < least:
            raise ParameterError(f"{what} is {count}", hint=f"it is at least {least}")


def _refuse_doubles(what: str, names: list[str]) -> None:
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise ParameterError(f"two of one name: {what} {double!r}", hint="give one a label")
