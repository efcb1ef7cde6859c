"""What will be done to an adapter, decided before anything is written."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from s3lora.adapter import (
    Adapter,
    Drop,
    Edit,
    LoraModule,
    ModuleName,
    Replace,
    Weights,
    Zero,
    natural_key,
)
from s3lora.edits import Editor
from s3lora.errors import AdapterError, ParameterError, UnsupportedError
from s3lora.io.checkpoint import Checkpoint, Sources, sources_for
from s3lora.io.peft_config import validated
from s3lora.io.peft_writer import edited_config, folded_config
from s3lora.linalg import Array, singular_values
from s3lora.targets import TARGETS, notes_for, taken_out
from s3lora.verify import BROKEN


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done to an adapter."""

    chosen: tuple[ModuleName, ...]
    """The modules to take out, in natural order."""
    edits: Mapping[ModuleName, Edit]
    """How: dropped, kept with B = 0, or given other factors. A chosen module that an edit left
    as it is has none."""
    edit: str
    """What was asked for: drop, zero, or an editor's name."""
    edit_params: Mapping[str, Any]
    """The editor's parameters."""
    target: str
    """Whom the result is written for: a key of `TARGETS`."""
    fold_scale: bool
    """Whether scales are folded, so that every loader applies the same."""
    notes: tuple[str, ...]
    """What the user should know about the result."""


def plan(
    adapter: Adapter,
    chosen: Collection[str],
    *,
    edit: Editor | Literal["drop", "zero"] = "drop",
    base: Checkpoint | None = None,
    aligned: Checkpoint | None = None,
    target: str = "minimal",
    fold_scale: bool = False,
) -> Plan:
    """Decide what becomes of each chosen module.

    Args:
        adapter: From `open_adapter`.
        chosen: Names of modules, as a policy returns them.
        edit: `drop` takes them out, `zero` keeps them with B = 0; an editor of `s3lora.edits`
            gives them other factors.
        base: Weights of the base model, for an editor that needs them.
        aligned: Weights of the aligned model, likewise.
        target: Whom the result is written for: `minimal`, `fused-safe` or `zero-fill`.
        fold_scale: Write one scale and one rank that every loader reads alike.

    Raises:
        ParameterError: if a name or the target is unknown, no module would stay, the names that
            stay cannot be told from one that leaves, or an editor lacks the weights it needs.
        AdapterError: if a module that stays is broken, or not targeted by the config.
        UnsupportedError: if B = 0 would not take a chosen module's effect out, a stack of
            experts would have to be dropped, or scales are to be folded that cannot be.
    """
    if target not in TARGETS:
        raise ParameterError(f"there is no target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    names = {ModuleName(name) for name in chosen}
    for name in sorted(names - adapter.slots.keys()):
        raise ParameterError(f"the adapter has no module {name!r}", hint="names are full paths")
    if names == adapter.slots.keys() and edit == "drop":
        raise ParameterError(
            "no module would stay: an empty adapter cannot be loaded",
            hint="use the base model without an adapter",
        )
    _refuse_broken(adapter, names)
    if isinstance(edit, str):
        obstacles = _obstacles(adapter)
        edits = taken_out(adapter, names, "zero-fill" if edit == "zero" else target, obstacles)
        _refuse_impossible(adapter, edits, obstacles)
    else:
        asker = f"the edit {edit.name}"
        sources = sources_for(adapter, asker, edit.needs, base=base, aligned=aligned)
        edits = _replaced(adapter, names, edit, sources)
    config = edited_config(adapter, edits)
    if fold_scale:
        folded_config(adapter, edits, config)
    ordered = {name: edits[name] for name in sorted(edits, key=natural_key)}
    return Plan(
        chosen=tuple(sorted(names, key=natural_key)),
        edits=ordered,
        edit=edit if isinstance(edit, str) else edit.name,
        edit_params={} if isinstance(edit, str) else edit.params,
        target=target,
        fold_scale=fold_scale,
        notes=tuple(notes_for(adapter, ordered, target, fold_scale=fold_scale)),
    )


def _replaced(
    adapter: Adapter,
    names: set[ModuleName],
    editor: Editor,
    sources: Sources,
) -> dict[ModuleName, Edit]:
    """What the editor makes of each module; one that it leaves as it is has no edit."""
    edits: dict[ModuleName, Edit] = {}
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        for name in sorted(names, key=natural_key):
            slot = adapter.slots[name]
            module = _editable(adapter, name)
            weights = Weights(**{role: sources[role].matrix(name, slot) for role in editor.needs})
            try:
                made = editor(module, weights)
            except np.linalg.LinAlgError as error:
                raise UnsupportedError(
                    f"{name}: the decomposition failed: {error}",
                    hint="use --edit drop, or choose other modules",
                ) from error
            if not (_fits_float32(made.A) and _fits_float32(made.B)):
                raise UnsupportedError(
                    f"{name} does not fit float32 after the edit {editor.name}",
                    hint="use --edit drop, or choose other modules",
                )
            if not _same(made, module):
                edits[name] = made
    return edits


def _editable(adapter: Adapter, name: ModuleName) -> LoraModule:
    """A module that can be given other factors."""
    if adapter.slots[name].kind == "expert":
        raise UnsupportedError(
            f"{name} is one of a stack of experts, which can only be zeroed",
            hint="use --edit drop or zero, or choose other modules",
        )
    module = adapter.read(name)
    if not module.finite:
        raise UnsupportedError(
            f"{name} holds NaN or Inf, so it can only be taken out",
            hint="use --edit drop, or choose other modules",
        )
    if module.scaling == 0:
        raise UnsupportedError(
            f"{name} has a scale of zero: no factors would have an effect",
            hint="use --edit drop, or choose other modules",
        )
    s = abs(module.scaling) * singular_values(module.B, module.A)
    if len(s) and not 0 < s[-1] <= s[0] < np.inf:
        raise UnsupportedError(
            f"{name}: the update is outside the range of float64, so it can only be taken out",
            hint="use --edit drop, or choose other modules",
        )
    return module


def _fits_float32(factor: Array) -> bool:
    """Whether a factor neither overflows in float32 nor vanishes."""
    largest, range32 = np.abs(factor).max(initial=0.0), np.finfo(np.float32)
    return bool(largest == 0 or range32.smallest_normal <= largest <= range32.max)


def _same(edit: Replace, module: LoraModule) -> bool:
    return np.array_equal(edit.A, module.A) and np.array_equal(edit.B, module.B)


def _refuse_broken(adapter: Adapter, chosen: set[ModuleName]) -> None:
    """What stays must be loadable, and mean the same to every loader."""
    faults = {f.where: f.message for f in adapter.findings if f.rule in BROKEN}
    for name, slot in adapter.slots.items():
        fault = faults.get(slot.parameter or name)
        if fault and name not in chosen:
            raise AdapterError(
                f"{name} would stay, but {fault}",
                hint=f"take it out first: --modules {shlex.quote(name)}",
            )


def _obstacles(adapter: Adapter) -> dict[ModuleName, str]:
    """For each module whose effect B = 0 would not take out, the reason."""
    if validated(adapter.config).rebased:
        return dict.fromkeys(adapter.slots, "loading it changes the base weights too")
    return {name: slot.unscored for name, slot in adapter.slots.items() if slot.unscored}


def _refuse_impossible(
    adapter: Adapter, edits: Mapping[ModuleName, Edit], obstacles: Mapping[ModuleName, str]
) -> None:
    for name, edit in edits.items():
        stacked = adapter.slots[name].kind == "expert"
        if isinstance(edit, Zero) and name in obstacles:
            drop = "use --target minimal, which drops the module"
            raise UnsupportedError(
                f"B = 0 would not take the effect of {name} out: {obstacles[name]}",
                hint="a stack of experts cannot be dropped either: keep it" if stacked else drop,
            )
        if isinstance(edit, Drop) and adapter.slots[name].parameter:
            raise UnsupportedError(
                f"{name} cannot be dropped: PEFT would still look for this stack of experts",
                hint="train or save the adapter again",
            )
