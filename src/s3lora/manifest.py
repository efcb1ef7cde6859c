"""What was done to an adapter, written beside it: a manifest for machines, a section for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from s3lora.adapter import Adapter, Drop, Replace, Zero
from s3lora.findings import Finding
from s3lora.io.card_file import card_text
from s3lora.io.safetensors import CHUNK
from s3lora.io.sources import CARD, CONFIG, MANIFEST, WEIGHTS
from s3lora.plan import Plan
from s3lora.report import card, plan_facts, tool
from s3lora.scores import ScoreTable
from s3lora.selection import Policy


def write_manifest(
    adapter: Adapter,
    plan: Plan,
    folder: Path,
    table: ScoreTable | None,
    policy: Policy | None,
    source_card: bytes | None,
    kept: Sequence[Finding] = (),
) -> None:
    """Write s3lora.json: what was done, by which scores, and the hash of every file."""
    from importlib.metadata import version  # slow to import, seldom needed

    dropped = [name for name, edit in plan.edits.items() if isinstance(edit, Drop)]
    document: dict[str, Any] = {
        "schema": 1,
        "tool": tool(),
        "versions": {"python": ".".join(map(str, sys.version_info[:3]))}
        | {name: version(name) for name in ("numpy", "safetensors", "ml_dtypes")},
        "source": {"ref": adapter.ref, "files": _source_hashes(adapter, source_card)},
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
        "kept": [dataclasses.asdict(finding) for finding in kept],
        "scores": {score.module: score.value for score in table.scores} if table else {},
        "skipped": {row.module: row.reason for row in table.skipped} if table else {},
        "output": {"files": _hashes(sorted(folder.iterdir()))},
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _source_hashes(adapter: Adapter, source_card: bytes | None) -> dict[str, str]:
    """SHA-256 by name of the source's files, of the very bytes that were read."""
    path = Path(adapter.ref)
    hashes = {WEIGHTS if path.is_dir() else path.name: adapter.digest}
    if adapter.config_digest:
        hashes[CONFIG] = adapter.config_digest
    if source_card is not None:
        hashes[CARD] = hashlib.sha256(source_card).hexdigest()
    return hashes


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
    adapter: Adapter,
    plan: Plan,
    folder: Path,
    table: ScoreTable | None,
    policy: Policy | None,
    source_card: bytes | None,
    kept: Sequence[Finding] = (),
) -> None:
    """Write README.md: a section on what was done, in the source's card, whose text stays.

    A card in UTF-16 or UTF-32 becomes one in UTF-8; of one that is no text it is said that it is
    not carried over.
    """
    named = (policy.name, policy.params) if policy else None
    facts = plan_facts(plan)
    section = card.pruned(facts, len(adapter.slots), adapter.digest, tool(), table, named)
    section += card.kept_from_source(kept)
    carried = None if source_card is None else card_text(source_card)
    if carried is None:
        if source_card is not None:
            section += [f"The {CARD} of the source is not text, so it was not carried over.", ""]
        base = adapter.config.get("base_model_name_or_path")
        text = card.front_matter(card.metadata(base if isinstance(base, str) else "")) + "\n"
        text += "\n".join(section)
    else:
        text = card.with_section(carried, section)
    (folder / CARD).write_bytes(text.encode("utf-8"))
