"""One adapter of a study on the aligned model, ready to be pruned and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from s3lora.adapter import Adapter, LoraModule
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.data import Example
from s3lora.lab.gate import Slopes, gate_table, slopes
from s3lora.lab.models import Chat, model_folder
from s3lora.lab.patched import Patched
from s3lora.lab.probes import Probe, make_probe
from s3lora.lab.recipes import for_gates, tested
from s3lora.lab.study.cells import Chooser
from s3lora.lab.study.config import Trained
from s3lora.lab.study.workshop import Workshop

Asked: TypeAlias = tuple[tuple[Example, ...], tuple[Example, ...]]


@dataclass(frozen=True, slots=True)
class Stand:
    """One adapter on the aligned model, ready for its cells."""

    trained: Trained
    chat: Chat
    patched: Patched
    chooser: Chooser
    probe: Probe
    asked: Asked
    """Harmful and harmless prompts to reply to."""


def stand_for(shop: Workshop, trained: Trained, adapter: Adapter, aligned: Chat) -> Stand:
    """Put an adapter on the aligned model."""
    sizes, study = shop.study.sizes, shop.study
    patched = Patched(aligned.model, adapter)
    harmful, harmless = tested(trained.recipe, shop.pools)
    probe = make_probe(
        aligned.tokenizer,
        harmful[: sizes.harmful],
        harmless[: sizes.harmless],
        harmless[-sizes.rows :],
        trained.openings,
        sizes.longest,
    )
    whole = [adapter.read(name) for name in adapter.names]
    found: list[Slopes] = []

    def gate(measure: str) -> Any:
        if not found:
            found.append(gate_slopes(shop, trained, patched, whole, aligned))
        return gate_table(found[0], adapter.names, measure)

    checkpoints = (Checkpoint(model_folder(study.model)), Checkpoint(shop.aligned()))
    chooser = Chooser(adapter, *checkpoints, shop.refusal(), gate)
    asked = (harmful[: sizes.replies], harmless[: sizes.replies])
    return Stand(trained, aligned, patched, chooser, probe, asked)


def gate_slopes(
    shop: Workshop,
    trained: Trained,
    patched: Patched,
    whole: Sequence[LoraModule],
    aligned: Chat,
) -> Slopes:
    """The slopes of a whole adapter, on prompts that are neither trained nor tested on."""
    harmful, harmless = for_gates(trained.recipe, shop.pools)
    probe = make_probe(
        aligned.tokenizer, harmful, (), harmless, trained.openings, shop.study.sizes.longest
    )
    patched.apply(whole)
    return slopes(patched, whole, probe)
