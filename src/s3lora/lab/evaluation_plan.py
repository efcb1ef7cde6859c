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
from s3lora.report.fields import REFUSED, Fields, check_text

MOST_MARKS = 5_000_000
MOST_BYTES = 512 * 2**20
OTHERS = {
    "plan": "what `s3lora plan` says of a question: an agent's plan",
    "rank": "a ranking",
    "compare": "a comparison",
    "eval": "an evaluation",
    "suite": "an evaluation",
    "gate": "a ranking by gate",
    "calibrate": "a calibration",
}
"""What else s3lora writes as JSON, by its kind."""
HINT = "give what `s3lora prune --dry-run --format json` prints, or a pruned adapter's s3lora.json"


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
        AdapterError: if the file is not valid JSON.
        ParameterError: if it cannot be read, is no regular file, is larger than any plan, or holds
            no plan.
    """
    file = path / MANIFEST if path.is_dir() else path
    try:
        raw = read_small(file, MOST_BYTES, HINT)
    except AdapterError as error:
        raise ParameterError(str(error), hint=HINT) from error
    document = parse(raw, str(file), marks=MOST_MARKS, hint=HINT)
    kind = document.get("kind", "")
    if isinstance(kind, str) and kind in OTHERS:
        raise ParameterError(f"{file} holds {OTHERS[kind]}, not a plan to prune", hint=HINT)
    if "adapter" in document and "plan" not in document:
        raise ParameterError(f"{file} holds a scan, in which nothing is planned", hint=HINT)
    read = _of_report if "adapter" in document else _of_manifest
    try:
        check_text(document)
        return read(file, Fields(document))
    except DataError as error:
        why = str(error).removeprefix(REFUSED)
        raise ParameterError(f"{file} holds no plan to prune: {why}", hint=HINT) from error


def _of_report(file: Path, document: Fields) -> WrittenPlan:
    planned = document.fields("plan")
    edit = planned.fields("edit")
    return WrittenPlan(
        str(file),
        (document.fields("adapter").text("sha256"),),
        document.texts("chosen"),
        edit.text("name"),
        edit.fields("params").value,
        planned.text("target"),
        planned.flag("fold_scale"),
    )


def _of_manifest(file: Path, document: Fields) -> WrittenPlan:
    """A module that its edit left as it was is not among the chosen: that makes no difference."""
    files, edit = document.fields("source").fields("files"), document.fields("edit")
    replaced = document.fields("replaced").value
    return WrittenPlan(
        str(file),
        tuple(files.text(name) for name in files.value),
        (*document.texts("dropped"), *document.texts("zeroed"), *replaced),
        edit.text("name"),
        edit.fields("params").value,
        document.text("target"),
        document.flag("fold_scale"),
    )


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
    return make_editor(written.edit, params)


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
