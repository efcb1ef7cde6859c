"""Whom a pruned adapter is written for, and what that makes of each chosen module.

No layout loads everywhere: some servers want every module to be there, some fuse projections or
experts and want all of a group or none.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from s3lora.adapter import Adapter, Drop, Edit, ModuleName, Replace, Zero, natural_key
from s3lora.io.peft import PREFIX
from s3lora.io.safetensors import TensorFile

TARGETS: dict[str, str] = {
    "minimal": "PEFT, vLLM, llama.cpp: the modules are gone, the config names what stays",
    "fused-safe": "SGLang: as minimal, but q/k/v and gate/up stay complete, with B = 0",
    "zero-fill": "LoRAX, TGI: every module stays, the pruned ones with B = 0",
}

FUSED: tuple[tuple[tuple[str, ...], ...], ...] = (
    ((), ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj")),
    ((), ("gate_proj",), ("gate_proj", "up_proj")),
)
"""For each group of projections that SGLang fuses, the subsets that it loads, smallest first."""

ONE_EXPERT = re.compile(r"\.experts\.\d+\.")
"""In the name of a module that is one of several experts and has factors of its own."""


def taken_out(
    adapter: Adapter, chosen: set[ModuleName], target: str, obstacles: Collection[ModuleName]
) -> dict[ModuleName, Edit]:
    """For each chosen module whether it is dropped or stays with B = 0.

    Args:
        adapter: From `open_adapter`.
        chosen: The modules to take out.
        target: A key of `TARGETS`.
        obstacles: Modules whose effect B = 0 would not take out.
    """
    filled = chosen if target == "zero-fill" else set()
    if target == "fused-safe":
        filled = _fused_gaps(adapter.slots, chosen)
    stacked = {name for name in chosen if adapter.slots[name].kind == "expert"}
    parts = stacked | _some_parts(adapter, chosen)
    filled = filled | parts | (_some_experts(adapter.slots, chosen) - set(obstacles))
    return {name: Zero() if name in filled else Drop() for name in chosen}


def _some_parts(adapter: Adapter, chosen: Collection[ModuleName]) -> set[ModuleName]:
    """The modules that go while another of the same target stays.

    Of an `nn.MultiheadAttention`, the input and the output projection: PEFT adapts both or none.
    """
    staying = {s.target or name for name, s in adapter.slots.items() if name not in chosen}
    return {name for name in chosen if (adapter.slots[name].target or name) in staying}


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


def notes_for(
    adapter: Adapter, edits: Mapping[ModuleName, Edit], target: str, *, fold_scale: bool
) -> Iterable[str]:
    """What the user should know about the result, a sentence each."""
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
    replaced = {name: edit for name, edit in edits.items() if isinstance(edit, Replace)}
    ranks = {name: len(edit.A) for name, edit in replaced.items()}
    if not fold_scale and any(ranks[name] != adapter.slots[name].rank for name in ranks):
        yield "ranks differ now, in rank_pattern: SGLang and LoRAX want one; --fold-scale pads them"
    worst = max((edit.error for edit in replaced.values()), default=0.0)
    if worst:
        yield f"the edit is exact but for {worst:.2%} of an update's norm at most"
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
