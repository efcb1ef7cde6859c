"""Taking modules out: a plan that can be looked at, and the writing of it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from s3lora.adapter import Adapter, Drop, Edit, ModuleName, Zero, natural_key
from s3lora.errors import AdapterError, OutputError, ParameterError, UnsupportedError
from s3lora.io import open_adapter
from s3lora.io.atomic import new_folder
from s3lora.io.peft import PREFIX
from s3lora.io.peft_config import validated
from s3lora.io.peft_writer import edited_config, folded_config, write_adapter
from s3lora.io.safetensors import TensorFile
from s3lora.manifest import write_card, write_manifest
from s3lora.scores import ScoreTable
from s3lora.selection import Policy

TARGETS: dict[str, str] = {
    "minimal": "PEFT, vLLM, llama.cpp: the modules are gone, the config names what stays",
    "fused-safe": "SGLang: as minimal, but q/k/v and gate/up stay complete, with B = 0",
    "zero-fill": "LoRAX, TGI: every module stays, the pruned ones with B = 0",
}

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

FUSED: tuple[tuple[tuple[str, ...], ...], ...] = (
    ((), ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj")),
    ((), ("gate_proj",), ("gate_proj", "up_proj")),
)
"""For each group of projections that SGLang fuses, the subsets that it loads, smallest first."""

ONE_EXPERT = re.compile(r"\.experts\.\d+\.")
"""In the name of a module that is one of several experts and has factors of its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done to an adapter."""

    chosen: tuple[ModuleName, ...]
    """The modules to take out, in natural order."""
    edits: Mapping[ModuleName, Edit]
    """How: dropped, or kept with B = 0."""
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
    target: str = "minimal",
    fold_scale: bool = False,
) -> Plan:
    """Decide how each chosen module leaves the adapter.

    Args:
        adapter: From `open_adapter`.
        chosen: Names of modules, as a policy returns them.
        target: Whom the result is written for: `minimal`, `fused-safe` or `zero-fill`.
        fold_scale: Write one scale and one rank that every loader reads alike.

    Raises:
        ParameterError: if a name or the target is unknown, no module would stay, or the names
            that stay cannot be told from one that leaves.
        AdapterError: if a module that stays is broken, or not targeted by the config.
        UnsupportedError: if B = 0 would not take a chosen module's effect out, a stack of
            experts would have to be dropped, or scales are to be folded that cannot be.
    """
    if target not in TARGETS:
        raise ParameterError(f"there is no target {target!r}", hint=f"one of {', '.join(TARGETS)}")
    names = {ModuleName(name) for name in chosen}
    for name in sorted(names - adapter.slots.keys()):
        raise ParameterError(f"the adapter has no module {name!r}", hint="names are full paths")
    if names == adapter.slots.keys():
        raise ParameterError(
            "no module would stay: an empty adapter cannot be loaded",
            hint="use the base model without an adapter",
        )
    _refuse_broken(adapter, names)
    obstacles = _obstacles(adapter)
    edits = _edits(adapter, names, target, obstacles)
    _refuse_impossible(adapter, edits, obstacles)
    config = edited_config(adapter, edits)
    if fold_scale:
        folded_config(adapter, edits, config)
    ordered = {name: edits[name] for name in sorted(edits, key=natural_key)}
    notes = tuple(_notes(adapter, ordered, target, fold_scale=fold_scale))
    return Plan(tuple(ordered), ordered, target, fold_scale, notes)


def _refuse_broken(adapter: Adapter, chosen: set[ModuleName]) -> None:
    """What stays must be loadable, and mean the same to every loader."""
    faults = {f.where: f.message for f in adapter.findings if f.rule in BROKEN}
    for name, slot in adapter.slots.items():
        fault = faults.get(slot.parameter or name)
        if fault and name not in chosen:
            raise AdapterError(
                f"{name} would stay, but {fault}",
                hint=f"take it out first: --modules {name}",
            )


def _obstacles(adapter: Adapter) -> dict[ModuleName, str]:
    """For each module whose effect B = 0 would not take out, the reason."""
    if validated(adapter.config).rebased:
        return dict.fromkeys(adapter.slots, "loading it changes the base weights too")
    return {name: slot.unscored for name, slot in adapter.slots.items() if slot.unscored}


def _edits(
    adapter: Adapter, chosen: set[ModuleName], target: str, obstacles: Collection[ModuleName]
) -> dict[ModuleName, Edit]:
    filled = chosen if target == "zero-fill" else set()
    if target == "fused-safe":
        filled = _fused_gaps(adapter.slots, chosen) & chosen
    stacked = {name for name in chosen if adapter.slots[name].kind == "expert"}
    filled = filled | stacked | (_some_experts(adapter.slots, chosen) - set(obstacles))
    return {name: Zero() if name in filled else Drop() for name in chosen}


def _some_experts(present: Collection[ModuleName], gone: Collection[ModuleName]) -> set[ModuleName]:
    """The experts that go while others stay: vLLM and transformers 5 fuse them, all or none."""
    experts = {name for name in present if ONE_EXPERT.search(name)}
    leaving = experts.intersection(gone)
    return leaving if leaving < experts else set()


def _fused_gaps(present: Collection[ModuleName], gone: Collection[ModuleName]) -> set[ModuleName]:
    """The modules that SGLang would miss in the fused groups if only those not gone stayed."""
    gaps = set()
    for owner in {name.rpartition(".")[0] for name in present}:
        for subsets in FUSED:
            members = {leaf: ModuleName(f"{owner}.{leaf}") for leaf in subsets[-1]}
            stay = {leaf for leaf, name in members.items() if name in present and name not in gone}
            wanted = next(subset for subset in subsets if stay <= set(subset))
            gaps |= {members[leaf] for leaf in wanted if leaf not in stay}
    return gaps


def _refuse_impossible(
    adapter: Adapter, edits: Mapping[ModuleName, Edit], obstacles: Mapping[ModuleName, str]
) -> None:
    stacks = frozenset(validated(adapter.config).parameters)
    for name, edit in edits.items():
        stacked = adapter.slots[name].kind == "expert"
        if isinstance(edit, Zero) and name in obstacles:
            drop = "use --target minimal, which drops the module"
            raise UnsupportedError(
                f"B = 0 would not take the effect of {name} out: {obstacles[name]}",
                hint="a stack of experts cannot be dropped either: keep it" if stacked else drop,
            )
        if isinstance(edit, Drop) and any(f".{name}".endswith(f".{stack}") for stack in stacks):
            raise UnsupportedError(
                f"{name} cannot be dropped: PEFT would still look for this stack of experts",
                hint="train or save the adapter again",
            )


def _notes(
    adapter: Adapter, edits: Mapping[ModuleName, Edit], target: str, *, fold_scale: bool
) -> Iterable[str]:
    config = adapter.config
    scaled = [f for f in ("use_rslora", "rank_pattern", "alpha_pattern") if config.get(f)]
    if scaled and target != "minimal" and not fold_scale:
        yield (
            f"{target} is for servers that ignore {', '.join(scaled)}: they will apply another "
            "scale than PEFT does; add --fold-scale"
        )
    if target == "fused-safe":
        gone = {name for name, edit in edits.items() if isinstance(edit, Drop)}
        for name in sorted(_fused_gaps(adapter.slots, gone), key=natural_key):
            yield f"SGLang will not load it: {name} is missing beside the others of its group"
    for name in _unwrapped_weights(adapter, edits):
        yield (
            f"it sets {name}.weight of the base model, which vLLM and llama.cpp refuse: "
            "--target zero-fill leaves it in place"
        )
    experts = [n for n in edits if adapter.slots[n].kind == "expert" or ONE_EXPERT.search(n)]
    zeroed = sum(isinstance(edits[name], Zero) for name in experts)
    if zeroed and target != "zero-fill":
        yield f"{zeroed} experts stay with B = 0: loaders that fuse experts want all or none"
    if experts and not zeroed and _some_experts(adapter.slots, edits):
        yield "vLLM and PEFT with transformers 5 will not load it: they want all experts or none"


def _unwrapped_weights(adapter: Adapter, edits: Mapping[ModuleName, Edit]) -> list[ModuleName]:
    """The modules that are dropped while the base weights they came with, an embedding's, stay."""
    infos = adapter.tensors.infos if isinstance(adapter.tensors, TensorFile) else {}
    dropped = (name for name, edit in edits.items() if isinstance(edit, Drop))
    return [name for name in dropped if f"{PREFIX}{name}.base_layer.weight" in infos]


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
        OutputError: if `out` exists, is a link, or cannot be written; nothing has changed then.
    """
    folder = Path(out)
    if folder.resolve() in _source_folders(adapter):
        raise OutputError(f"{folder} holds the source", hint="give a folder elsewhere")
    with new_folder(folder, replace=force) as partial:
        write_adapter(adapter, plan.edits, partial, fold_scale=plan.fold_scale)
        _check(adapter, plan, open_adapter(partial))
        write_card(adapter, plan, partial, table, policy)
        write_manifest(adapter, plan, partial, table, policy)
    return open_adapter(folder)


def _source_folders(adapter: Adapter) -> set[Path]:
    """The folders that hold the source, from its own up; links to it and from it are followed."""
    path = Path(adapter.ref)
    folder = path if path.is_dir() else path.parent
    sources = {folder.resolve()}
    if isinstance(adapter.tensors, TensorFile):
        sources.add(adapter.tensors.path.resolve().parent)
    return {folder for source in sources for folder in (source, *source.parents)}


def _check(adapter: Adapter, plan: Plan, written: Adapter) -> None:
    """What was written holds what was planned: names, bytes, and a file others can read."""
    dropped = {name for name, edit in plan.edits.items() if isinstance(edit, Drop)}
    wrong: set[str] = set(written.slots.keys() ^ (adapter.slots.keys() - dropped))
    wrong |= {finding.where for finding in written.findings if finding.rule in BROKEN}
    wrong |= {name for name in plan.edits.keys() - dropped - wrong if not _silent(written, name)}
    before, after = adapter.tensors, written.tensors
    if isinstance(before, TensorFile) and isinstance(after, TensorFile) and not plan.fold_scale:
        untouched = [slot for name, slot in adapter.slots.items() if name not in plan.edits]
        keys = {key for slot in untouched for key in slot.keys if slot.kind != "expert"}
        wrong |= {k for k in keys if b"".join(before.chunks(k)) != b"".join(after.chunks(k))}
    if isinstance(after, TensorFile):
        with safe_open(after.path, framework="np") as reference:
            wrong |= set(reference.keys()) ^ after.infos.keys()
    if wrong:
        raise OutputError(
            f"what was written is not what was planned: {sorted(wrong)[0]}",
            hint="nothing was kept of it; please report this",
        )


def _silent(adapter: Adapter, name: ModuleName) -> bool:
    """Whether a module's update is zero: one factor is, and the other is finite."""
    module = adapter.read(name)
    zero = not (module.A.any() and module.B.any())
    return zero and bool(np.isfinite(module.A).all() and np.isfinite(module.B).all())


def prune(
    adapter: Adapter,
    chosen: Collection[str],
    out: str | os.PathLike[str],
    *,
    target: str = "minimal",
    fold_scale: bool = False,
    table: ScoreTable | None = None,
    policy: Policy | None = None,
    force: bool = False,
) -> Adapter:
    """Take modules out of an adapter: `plan` and `apply` in one; see there.

    Args:
        adapter: From `open_adapter`; it is not changed.
        chosen: Names of modules, as a policy returns them.
        out: A folder that does not exist yet.
        target: Whom the result is written for: `minimal`, `fused-safe` or `zero-fill`.
        fold_scale: Write one scale and one rank that every loader reads alike.
        table: The scores that led to the choice, for the manifest.
        policy: The policy that chose, for the manifest.
        force: If `out` is a folder, move it aside to `NAME.old` first.

    Returns:
        The adapter that was written, opened.
    """
    planned = plan(adapter, chosen, target=target, fold_scale=fold_scale)
    return apply(adapter, planned, out, table=table, policy=policy, force=force)
