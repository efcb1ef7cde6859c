"""Taking modules out, or editing them: a plan is carried out, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from s3lora.adapter import Adapter
from s3lora.edits import Editor
from s3lora.errors import OutputError, ParameterError
from s3lora.findings import SEVERITIES, Finding
from s3lora.io import open_adapter
from s3lora.io.atomic import new_folder, restrict
from s3lora.io.card_file import read_card
from s3lora.io.checkpoint import Checkpoint
from s3lora.io.peft_writer import edited_config, folded_config, write_adapter
from s3lora.io.safetensors import TensorFile
from s3lora.io.sources import CARD, CONFIG, WEIGHTS
from s3lora.manifest import write_card, write_manifest
from s3lora.plan import Plan, plan
from s3lora.scores import ScoreTable
from s3lora.selection import Policy
from s3lora.verify import check

ABOUT_FOLDER = frozenset(("unscanned-sibling",))
"""Rules of findings about what lies beside an adapter; that is not carried over."""


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
        policy: The policy that chose from that table, for the manifest.
        force: If `out` is a folder, move it aside to `NAME.old` first.

    Returns:
        The adapter that was written, opened.

    Raises:
        ParameterError: if the policy chooses other modules than those of the plan.
        AdapterError: if the source's README.md is a link that leads out of its folder.
        OutputError: if `out` exists, is a link, or cannot be written; nothing has changed then.
    """
    folder = Path(out)
    if Path(os.path.realpath(folder)) in _source_folders(adapter):
        raise OutputError(f"{folder} holds the source", hint="give a folder elsewhere")
    ref = Path(adapter.ref)
    source = ref if ref.is_dir() else ref.parent
    source_card = read_card(source)
    _check_policy(plan, table, policy)
    taken = "give a new path, or --force to move the old folder aside"
    with new_folder(folder, replace=force, private_as=source, hint=taken) as partial:
        write_adapter(adapter, plan.edits, partial, fold_scale=plan.fold_scale)
        written = open_adapter(partial)
        check(adapter, plan.edits, written, exact=not plan.fold_scale)
        facts = table, policy, source_card, kept_findings(written, table, plan)
        write_card(adapter, plan, partial, *facts)
        write_manifest(adapter, plan, partial, *facts)
        _restrict(partial, source, adapter)
    return open_adapter(folder)


def kept_findings(written: Adapter, table: ScoreTable | None, plan: Plan) -> tuple[Finding, ...]:
    """What is odd about a result because it was odd about the source: it is not taken out.

    Args:
        written: The result, opened.
        table: The scores of the source; what they brought up is told of modules that stay.
        plan: What was done.
    """
    files = [finding for finding in written.findings if finding.rule not in ABOUT_FOLDER]
    stay = written.slots.keys() - plan.edits.keys()
    numbers = [finding for finding in (table.findings if table else ()) if finding.where in stay]
    return tuple(sorted([*files, *numbers], key=lambda row: SEVERITIES.index(row.severity)))


def _check_policy(plan: Plan, table: ScoreTable | None, policy: Policy | None) -> None:
    """A manifest must not name a policy that chose something else."""
    if policy is None:
        return
    if table is None:
        raise ParameterError(
            "the policy cannot be recorded without the scores that it chose by",
            hint="give the table of the scan too, or leave the policy out",
        )
    if set(policy(table)) != set(plan.chosen):
        raise ParameterError(
            f"the policy {policy.name} chooses other modules of this table than the plan edits",
            hint="plan with policy(table), or leave the policy out",
        )


def check_change(adapter: Adapter, plan: Plan) -> None:
    """See to it that a plan changes something.

    Raises:
        ParameterError: if it does not: what would be written is the source.
    """
    config = edited_config(adapter, plan.edits)
    if plan.fold_scale:
        config = folded_config(adapter, plan.edits, config)
    if not plan.edits and config == adapter.config:
        raise ParameterError(
            "no module changes, so nothing was written",
            hint="choose other modules, or use the adapter as it is",
        )


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
    sources = {Path(os.path.realpath(folder))}
    if isinstance(adapter.tensors, TensorFile):
        sources.add(Path(os.path.realpath(adapter.tensors.path)).parent)
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
