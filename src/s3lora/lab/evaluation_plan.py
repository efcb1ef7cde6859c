"""A plan as `s3lora prune` writes it, read back and carried out in memory."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from s3lora.adapter import Adapter, LoraModule, Replace
from s3lora.edits import Editor, make_editor
from s3lora.errors import AdapterError, DataError, ParameterError
from s3lora.io.checkpoint import Checkpoint
from s3lora.io.regular_file import read_small
from s3lora.io.sources import MANIFEST
from s3lora.io.strict_json import parse
from s3lora.plan import Plan, plan
from s3lora.report.fields import REFUSED, Fields, check_text, refuse

MOST_BYTES = 512 * 2**20
MOST_MARKS = 5_000_000
HINT = "give what `s3lora prune --dry-run --format json` prints, or a pruned adapter's s3lora.json"


WRITERS = {
    "scan": "s3lora scan",
    "rank": "s3lora rank",
    "compare": "s3lora compare",
    "plan": "s3lora plan",
    "eval": "s3lora eval",
    "suite": "s3lora eval --suite",
    "calibrate": "s3lora eval calibrate",
    "gate": "s3lora lab gate",
}
"""The command behind each kind of JSON."""


@dataclass(frozen=True, slots=True)
class WrittenPlan:
    """What a file says is to be done, or was done, to an adapter."""

    path: str
    digests: tuple[str, ...]
    """SHA-256 of the adapter's weights file; of a manifest, of all source files."""
    chosen: tuple[str, ...]
    edit: str
    params: Mapping[str, Any]
    """Of the edit, by name."""
    target: str
    fold_scale: bool


def read_plan(path: Path) -> WrittenPlan:
    """The plan in a file: the JSON of `prune --dry-run`, a manifest, or a folder with one.

    Raises:
        ParameterError: if it cannot be read, is no file, is too large or no JSON, or holds no plan
            to prune.
    """
    try:
        file = path / MANIFEST if path.is_dir() else path
        raw = read_small(file, MOST_BYTES, HINT)
        parsed = parse(raw, str(file), marks=MOST_MARKS, hint=HINT)
    except (AdapterError, OSError) as error:
        raise ParameterError(f"cannot read the plan: {error}", hint=HINT) from error
    _refuse_other_kinds(file, parsed)
    try:
        check_text(parsed)
        document = Fields(parsed)
        return (_of_report if "adapter" in parsed else _of_manifest)(file, document)
    except DataError as error:
        why = str(error).removeprefix(REFUSED)
        raise ParameterError(f"{file} holds no plan to prune: {why}", hint=HINT) from error


def _refuse_other_kinds(file: Path, parsed: Mapping[str, Any]) -> None:
    """Refuse what other commands print, by the name of the command."""
    kind = parsed.get("kind")
    if kind == "scan" and "plan" in parsed:
        return
    command = WRITERS.get(kind) if isinstance(kind, str) else None
    if command:
        raise ParameterError(
            f"{file} is what `{command}` writes, which is no plan to prune an adapter", hint=HINT
        )


def _of_report(file: Path, document: Fields) -> WrittenPlan:
    planned = document.fields("plan")
    return WrittenPlan(
        str(file),
        (document.fields("adapter").text("sha256"),),
        document.texts("chosen"),
        *_edit_in(planned),
        planned.text("target"),
        planned.flag("fold_scale"),
    )


def _of_manifest(file: Path, document: Fields) -> WrittenPlan:
    """A module that its edit left as it was is not among the chosen: that makes no difference."""
    files = document.fields("source").fields("files")
    return WrittenPlan(
        str(file),
        tuple(files.text(name) for name in files.value),
        (
            *document.texts("dropped"),
            *document.texts("zeroed"),
            *document.fields("replaced").value,
        ),
        *_edit_in(document),
        document.text("target"),
        document.flag("fold_scale"),
    )


def _edit_in(document: Fields) -> tuple[str, dict[str, Any]]:
    """The edit's name and its parameters, each a text, a number, or true or false."""
    edit = document.fields("edit")
    params = edit.fields("params")
    for name, value in params.value.items():
        if not isinstance(value, str | int | float):
            refuse(f"{params.at(name)} is neither a text nor a number nor true or false")
        if not isinstance(value, str | bool):
            params.number(name)
    return edit.text("name"), dict(params.value)


def planned_again(
    written: WrittenPlan,
    adapter: Adapter,
    *,
    base: Checkpoint | None = None,
    aligned: Checkpoint | None = None,
    safe: Adapter | None = None,
) -> Plan:
    """The plan for this adapter.

    Args:
        written: From `read_plan`.
        adapter: The one that it was made for.
        base: Weights of the base model, for an edit that needs them.
        aligned: Weights of the aligned model, likewise.
        safe: The adapter that `merge` mixes in.

    Raises:
        ParameterError: if the plan is for another adapter, or weights or the safe adapter are
            missing or not those it was made with.
    """
    if adapter.digest not in written.digests:
        raise ParameterError(
            f"{written.path} is a plan for another adapter than {adapter.ref}: the SHA-256 differs",
            hint="make the plan again with s3lora prune --dry-run --format json",
        )
    edit = _edit(written, safe)
    weights = {} if isinstance(edit, str) else {"base": base, "aligned": aligned}
    return plan(
        adapter,
        written.chosen,
        edit=edit,
        target=written.target,
        fold_scale=written.fold_scale,
        **weights,
    )


def _edit(written: WrittenPlan, safe: Adapter | None) -> Editor | Literal["drop", "zero"]:
    if written.edit == "drop":
        return "drop"
    if written.edit == "zero":
        return "zero"
    params = dict(written.params)
    if written.edit == "merge":
        ref, digest = params.pop("with", None), params.pop("sha256", None)
        if safe is None:
            raise ParameterError(
                "the plan merges with a safe adapter",
                hint=f"name it: --with {shlex.quote(str(ref or 'SAFE'))}",
            )
        if safe.digest != digest:
            raise ParameterError(
                f"{safe.ref} is not the adapter that the plan merges with: the SHA-256 differs",
                hint=f"the plan names {ref}",
            )
        params["safe"] = safe
    try:
        return make_editor(written.edit, params)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"{written.path}: the edit {written.edit!r} cannot take its parameters: {error}",
            hint=HINT,
        ) from error


def left_by(adapter: Adapter, planned: Plan) -> tuple[LoraModule, ...]:
    """The modules that the adapter has after a plan, edited ones with their new factors.

    Raises:
        UnsupportedError: if the files alone do not give the update of one that stays.
    """
    left = []
    for name in adapter.names:
        edit = planned.edits.get(name)
        if edit is None:
            left.append(adapter.read(name))
        elif isinstance(edit, Replace):
            left.append(replace(adapter.stored(name), A=edit.A, B=edit.B))
    return tuple(left)
