"""What was done to an adapter, written beside it: a manifest for machines, a section for people."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from s3lora._version import __version__
from s3lora.adapter import Adapter, Drop, Edit, Replace, Zero
from s3lora.io.safetensors import CHUNK, read_small
from s3lora.io.sources import CARD, CONFIG, MANIFEST, WEIGHTS
from s3lora.plan import Plan
from s3lora.scores import ScoreTable
from s3lora.selection import Policy

MAX_CARD = 8 * 2**20
"""Largest model card that is carried over, in bytes."""


def tool() -> dict[str, str]:
    """Name and version of this tool."""
    return {"name": "s3lora", "version": __version__}


def write_manifest(
    adapter: Adapter, plan: Plan, folder: Path, table: ScoreTable | None, policy: Policy | None
) -> None:
    """Write s3lora.json: what was done, by which scores, and the hash of every file."""
    from importlib.metadata import version  # slow to import, seldom needed

    dropped = [name for name, edit in plan.edits.items() if isinstance(edit, Drop)]
    document: dict[str, Any] = {
        "schema": 1,
        "tool": tool(),
        "versions": {"python": ".".join(map(str, sys.version_info[:3]))}
        | {name: version(name) for name in ("numpy", "safetensors", "ml_dtypes")},
        "source": {"ref": adapter.ref, "files": _source_hashes(adapter)},
        "method": table and {"name": table.method, "params": dict(table.params)},
        "policy": policy and {"name": policy.name, "params": dict(policy.params)},
        "target": plan.target,
        "fold_scale": plan.fold_scale,
        "dropped": dropped,
        "edit": {"name": plan.edit, "params": dict(plan.edit_params)},
        "zeroed": [name for name, edit in plan.edits.items() if isinstance(edit, Zero)],
        "replaced": {
            name: {"rank": len(edit.A), "error": edit.error}
            for name, edit in plan.edits.items()
            if isinstance(edit, Replace)
        },
        "notes": list(plan.notes),
        "scores": {score.module: score.value for score in table.scores} if table else {},
        "skipped": {row.module: row.reason for row in table.skipped} if table else {},
        "output": {"files": _hashes(sorted(folder.iterdir()))},
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _source_hashes(adapter: Adapter) -> dict[str, str]:
    """SHA-256 by name of the source's files that were read; of the weights, the very bytes."""
    path = Path(adapter.ref)
    folder, weights = (path, WEIGHTS) if path.is_dir() else (path.parent, path.name)
    others = (folder / name for name in (CONFIG, CARD))
    return {weights: adapter.digest} | _hashes(p for p in others if p.exists())


def _hashes(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by file name."""
    hashes = {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        hashes[path.name] = digest.hexdigest()
    return hashes


def write_card(
    adapter: Adapter, plan: Plan, folder: Path, table: ScoreTable | None, policy: Policy | None
) -> None:
    """Write README.md: the source's card as it is, and a section on what was done."""
    card = _card(adapter).rstrip("\n") + "\n\n" + _section(adapter, plan, table, policy)
    (folder / CARD).write_bytes(card.encode("utf-8", "surrogateescape"))


def _card(adapter: Adapter) -> str:
    """The source's model card; without one, a front matter that names the base model."""
    path = Path(adapter.ref)
    card = (path if path.is_dir() else path.parent) / CARD
    if card.exists():
        raw = read_small(card, MAX_CARD, f"a card has at most {MAX_CARD}")
        return raw.decode("utf-8", "surrogateescape")
    base = adapter.config.get("base_model_name_or_path")
    named = f"base_model: {json.dumps(base)}\n" if isinstance(base, str) and base else ""
    return f"---\n{named}library_name: peft\n---\n"


def _section(adapter: Adapter, plan: Plan, table: ScoreTable | None, policy: Policy | None) -> str:
    """The section of the card: in words what the manifest says in full."""
    count = f"{len(plan.chosen)} of {len(adapter.slots)} LoRA modules"
    how = _how(table, policy)
    rows = [f"- `{name}`: {_what(plan.edits.get(name))}" for name in plan.chosen]
    taken = plan.edit in ("drop", "zero")
    done = "taken out" if taken else f"edited by `{plan.edit}` ({_shown(plan.edit_params)})"
    notes = [f"\nNote: {note}." for note in plan.notes]
    return "\n".join(
        [
            "## Pruned with s3lora",
            "",
            f"{count} were chosen{how} and {done}, for the target `{plan.target}`"
            + (", with scales folded." if plan.fold_scale else "."),
            "A score is a reason to look at a module, no proof of harm; whether this made the "
            "model safer has to be measured.",
            "",
            *rows,
            *notes,
            "",
            f"Scores, versions and the SHA-256 of every file are in `{MANIFEST}`.",
            "",
        ]
    )


def _what(edit: Edit | None) -> str:
    """What became of a module, for people."""
    if edit is None:
        return "as it was: the edit has nothing to change there"
    if not isinstance(edit, Replace):
        return "left out" if isinstance(edit, Drop) else "kept with B = 0"
    off = f", {edit.error:.2%} off" if edit.error else ""
    return f"given other factors of rank {len(edit.A)}{off}"


def _how(table: ScoreTable | None, policy: Policy | None) -> str:
    if table is None:
        return ""
    by = (
        f" by `{table.method}` ({_shown(table.params)})"
        if table.params
        else f" by `{table.method}`"
    )
    return by + (f", policy `{policy.name}` ({_shown(policy.params)})" if policy else "")


def _shown(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in params.items())
