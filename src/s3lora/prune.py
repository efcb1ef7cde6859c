"""Taking modules out, or editing them: a plan is carried out, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from s3lora.adapter import Adapter
from s3lora.edits import Editor
from s3lora.errors import OutputError
from s3lora.io import open_adapter
from s3lora.io.atomic import new_folder, restrict
from s3lora.io.card_file import read_card
from s3lora.io.checkpoint import Checkpoint
from s3lora.io.peft_writer import write_adapter
from s3lora.io.safetensors import TensorFile
from s3lora.io.sources import CARD, CONFIG, WEIGHTS
from s3lora.manifest import write_card, write_manifest
from s3lora.plan import Plan, plan
from s3lora.scores import ScoreTable
from s3lora.selection import Policy
from s3lora.verify import check


def apply(
    adapter: Adapter,
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    table: ScoreTable | None = None,
    policy: Policy | None = None,
    force: bool = False,
) -> Adapter:
    """Write the adapter after the plan, whole or not at all, and read it back.

    Args:
        adapter: The source; it is not changed.
        plan: From `plan`.
        out: A folder that does not exist yet.
        table: The scores that led to the plan, for the manifest.
        policy: The policy that chose, for the manifest.
        force: If `out` is a folder, move it aside to `NAME.old` first.

    Returns:
        The adapter that was written, opened.

    Raises:
        AdapterError: if the source's README.md is a link that leads out of its folder.
        OutputError: if `out` exists, is a link, or cannot be written; nothing has changed then.
    """
    folder = Path(out)
    if folder.resolve() in _source_folders(adapter):
        raise OutputError(f"{folder} holds the source", hint="give a folder elsewhere")
    ref = Path(adapter.ref)
    source = ref if ref.is_dir() else ref.parent
    source_card = read_card(source)
    with new_folder(folder, replace=force, private_as=source) as partial:
        write_adapter(adapter, plan.edits, partial, fold_scale=plan.fold_scale)
        check(adapter, plan.edits, open_adapter(partial), exact=not plan.fold_scale)
        write_card(adapter, plan, partial, table, policy, source_card)
        write_manifest(adapter, plan, partial, table, policy, source_card)
        _restrict(partial, source, adapter)
    return open_adapter(folder)


def _restrict(written: Path, source: Path, adapter: Adapter) -> None:
    """Let nobody read of the result what they may not read of the source."""
    weights = adapter.tensors.path if isinstance(adapter.tensors, TensorFile) else source / WEIGHTS
    card = source / CARD
    origins = {CONFIG: source / CONFIG, CARD: card if card.exists() else weights}
    for path in written.iterdir():
        restrict(path, origins.get(path.name, weights))


def _source_folders(adapter: Adapter) -> set[Path]:
    """The folders that hold the source, from its own up; links to it and from it are followed."""
    path = Path(adapter.ref)
    folder = path if path.is_dir() else path.parent
    sources = {folder.resolve()}
    if isinstance(adapter.tensors, TensorFile):
        sources.add(adapter.tensors.path.resolve().parent)
    return {folder for source in sources for folder in (source, *source.parents)}


def prune(
    adapter: Adapter,
    chosen: Collection[str],
    out: str | os.PathLike[str],
    *,
    edit: Editor | Literal["drop", "zero"] = "drop",
    base: Checkpoint | None = None,
    aligned: Checkpoint | None = None,
    target: str = "minimal",
    fold_scale: bool = False,
    table: ScoreTable | None = None,
    policy: Policy | None = None,
    force: bool = False,
) -> Adapter:
    """Take modules out of an adapter, or edit them: `plan` and `apply` in one; see there.

    Args:
        adapter: From `open_adapter`; it is not changed.
        chosen: Names of modules, as a policy returns them.
        out: A folder that does not exist yet.
        edit: `drop`, `zero`, or an editor of `s3lora.edits`.
        base: Weights of the base model, for an editor that needs them.
        aligned: Weights of the aligned model, likewise.
        target: Whom the result is written for: `minimal`, `fused-safe` or `zero-fill`.
        fold_scale: Write one scale and one rank that every loader reads alike.
        table: The scores that led to the choice, for the manifest.
        policy: The policy that chose, for the manifest.
        force: If `out` is a folder, move it aside to `NAME.old` first.

    Returns:
        The adapter that was written, opened.
    """
    planned = plan(
        adapter,
        chosen,
        edit=edit,
        base=base,
        aligned=aligned,
        target=target,
        fold_scale=fold_scale,
    )
    return apply(adapter, planned, out, table=table, policy=policy, force=force)
