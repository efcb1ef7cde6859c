"""What was done to an adapter, written beside it: a manifest for machines, a section for people."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s3lora.adapter import Adapter, Drop, Replace, Zero
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
        "scores": {score.module: score.value for score in table.scores} if table else {},
        "skipped": {row.module: row.reason for row in table.skipped} if table else {},
        "output": {"files": _hashes(sorted(folder.iterdir()))},
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _source_hashes(adapter: Adapter, source_card: bytes | None) -> dict[str, str]:
    """SHA-256 by name of the source's files that were read: of the very bytes."""
    path = Path(adapter.ref)
    weights = WEIGHTS if path.is_dir() else path.name
    card_hash = {} if source_card is None else {CARD: hashlib.sha256(source_card).hexdigest()}
    return {weights: adapter.digest, CONFIG: adapter.config_digest} | card_hash


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
) -> None:
    """Write README.md: the source's card as it is, and a section on what was done."""
    named = (policy.name, policy.params) if policy else None
    facts = plan_facts(plan)
    section = card.pruned(facts, len(adapter.slots), adapter.digest, tool(), table, named)
    text = _card(adapter, source_card).rstrip("\n") + "\n\n" + "\n".join(section)
    (folder / CARD).write_bytes(text.encode("utf-8", "surrogateescape"))


def _card(adapter: Adapter, source_card: bytes | None) -> str:
    """The source's model card; without one, a front matter that names the base model."""
    if source_card is not None:
        return source_card.decode("utf-8", "surrogateescape")
    base = adapter.config.get("base_model_name_or_path")
    return card.front_matter(card.metadata(base if isinstance(base, str) else ""))
