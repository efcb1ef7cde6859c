"""Reading back what was written, before it counts as written."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import numpy as np
from safetensors import SafetensorError, safe_open

from s3lora.adapter import Adapter, Drop, Edit, LoraModule, ModuleName, Replace, Slot, Zero
from s3lora.errors import OutputError
from s3lora.io.safetensors import TensorFile
from s3lora.linalg import difference_values, singular_values

BROKEN = frozenset(
    (
        "untargeted-module",
        "incomplete-module",
        "broken-tensor",
        "shape-mismatch",
        "ambiguous-module",
    )
)
"""Findings about a module that keep it from being written on."""


def check(
    adapter: Adapter, edits: Mapping[ModuleName, Edit], written: Adapter, *, exact: bool
) -> None:
    """What was written holds what was planned: names, bytes, updates, and a file others can read.

    Args:
        adapter: The source.
        edits: What was done, by module.
        written: The result, read back.
        exact: Whether tensors that no edit touched must have the same bytes.

    Raises:
        OutputError: naming the first thing that is not as planned.
    """
    dropped = {name for name, edit in edits.items() if isinstance(edit, Drop)}
    wrong: set[str] = set(written.slots.keys() ^ (adapter.slots.keys() - dropped))
    wrong |= {finding.where for finding in written.findings if finding.rule in BROKEN}
    for name, edit in edits.items():
        if isinstance(edit, Zero) and name not in wrong and not _silent(written, name):
            wrong.add(name)
        if isinstance(edit, Replace) and not _holds(written.read(name), adapter.slots[name], edit):
            wrong.add(name)
    before, after = adapter.tensors, written.tensors
    if isinstance(before, TensorFile) and isinstance(after, TensorFile) and exact:
        untouched = [slot for name, slot in adapter.slots.items() if name not in edits]
        keys = {key for slot in untouched for key in slot.keys if slot.kind != "expert"}
        wrong |= {
            key
            for key in keys
            if any(a != b for a, b in zip_longest(before.chunks(key), after.chunks(key)))
        }
    if isinstance(after, TensorFile):
        wrong |= _names_that_others_read(after) ^ after.infos.keys()
    if wrong:
        raise OutputError(
            f"what was written is not what was planned: {sorted(wrong)[0]}",
            hint="nothing was kept of it; please report this",
        )


def _names_that_others_read(file: TensorFile) -> set[str]:
    """The names of the tensors, as the format's own library reads them."""
    try:
        with safe_open(file.path, framework="np") as reference:
            return set(reference.keys())
    except SafetensorError as error:
        raise OutputError(
            f"what was written cannot be read by the safetensors library: {error}",
            hint="nothing was kept of it; save the source again with another tool",
        ) from error


def _holds(written: LoraModule, before: Slot, edit: Replace) -> bool:
    """Whether a module's update is the one that was planned, to float32."""
    wanted = singular_values(edit.B, edit.A)  # in units of the scale, which may be any float64
    folded = written.scaling / before.scaling
    off = difference_values(folded * written.B, written.A, edit.B, edit.A)
    rounding = float(np.linalg.norm(edit.B) * np.linalg.norm(edit.A))
    allowed = 1e-5 * float(np.linalg.norm(wanted)) + 1e-6 * rounding + 1e-30
    return float(np.linalg.norm(off)) <= allowed


def _silent(adapter: Adapter, name: ModuleName) -> bool:
    """Whether a module's update is zero: one factor is, and the other is finite."""
    module = adapter.read(name)
    return module.finite and not (module.A.any() and module.B.any())
