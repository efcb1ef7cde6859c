"""PEFT's adapter_config.json: read strictly, and asked the questions that decide an update.

Which rank and which scale does a module have, does the config target it at all, and is the update
of a kind that the two factors alone determine?
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from s3lora.adapter import ModuleName
from s3lora.errors import UnsupportedError
from s3lora.findings import Finding
from s3lora.io import config_fields as fields
from s3lora.io.config_fields import HINT
from s3lora.io.patterns import Matcher, endings
from s3lora.io.regular_file import refuse_stand_in
from s3lora.io.strict_json import parse

_T = TypeVar("_T")

MAX_CONFIG = 16 * 2**20
"""Largest config read, in bytes: one that names 50,000 expert modules has 3 MB."""
MAX_MARKS = 600_000
"""Most marks of JSON in a config: as many as if it also gave each of those its rank and alpha."""
MAX_LAYER_LISTS = 10
"""Most names that `layers_pattern` may have; models have one or two lists of layers."""

OTHER_TYPES = {
    "ADALORA": "AdaLoRA scales each rank by lora_E: its update is B·(A∘E)",
    "LOHA": "LoHa's update is a Hadamard product of full rank",
    "LOKR": "LoKr's update is a Kronecker product of full rank",
    "OFT": "OFT rotates the base weights, so its update needs them",
    "BOFT": "BOFT rotates the base weights, so its update needs them",
    "HIRA": "HiRA multiplies the base weights, so its update needs them",
    "IA3": "IA³ rescales activations; it has no additive update",
    "VERA": "VeRA's factors are random matrices that the file need not carry",
    "XLORA": "X-LoRA mixes adapters by a gate that depends on the input",
}

OTHER_VARIANTS = {
    "use_dora": "DoRA: the true update depends on the base weights",
    "use_qalora": "QA-LoRA pools the inputs before A: the update is not s·B·A",
    "use_bdlora": "BD-LoRA: the factors are block-diagonal shards, not A and B",
    "velora_config": "VeLoRA: the update is not s·B·A",
    "monteclora_config": "MonteCLoRA samples its update: it is not s·B·A",
    "kasa_config": "KaSA: the update has a diagonal between B and A and changes the base weights",
}

BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")

KNOWN_FIELDS = frozenset(
    """alora_invocation_tokens alpha_pattern arrow_config auto_mapping base_model_name_or_path bias
    corda_config ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode
    init_lora_weights kasa_config layer_replication layers_pattern layers_to_transform loftq_config
    lora_alpha lora_bias lora_dropout lora_ga_config megatron_config megatron_core modules_to_save
    monteclora_config peft_type peft_version qalora_group_size r rank_pattern revision
    runtime_config target_modules target_parameters task_type trainable_token_indices use_bdlora
    use_dora use_qalora use_rslora velora_config""".split()
)
"""The fields of PEFT 0.21's LoraConfig."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The fields of a LoRA config that decide what its tensors mean, validated."""

    raw: Mapping[str, Any]
    """Everything, as it stands in the file."""
    r: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    """`rank_pattern`."""
    alphas: Mapping[str, float]
    """`alpha_pattern`."""
    targets: str | tuple[str, ...] | None
    """`target_modules`: an expression, names or suffixes, or None for PEFT's own choice."""
    excluded: str | tuple[str, ...]
    """`exclude_modules`."""
    saved: frozenset[str]
    """`modules_to_save`."""
    parameters: tuple[str, ...]
    """`target_parameters`."""
    layers: frozenset[int] | None
    """`layers_to_transform`; None if every layer is."""
    layer_lists: tuple[str, ...]
    """`layers_pattern`."""

    @property
    def unscored(self) -> str:
        """Why no module of this adapter can be judged from the file; empty if they can."""
        for field, reason in OTHER_VARIANTS.items():
            if self.raw.get(field):
                return reason
        init = self.raw.get("init_lora_weights", True)
        if isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS):
            return (
                f"init_lora_weights={init[:40]!r}: training started from A and B cut out of the "
                "base weights, so the file's s·B·A is not the update"
            )
        if isinstance(init, str) and init.lower() not in PLAIN_INITS:
            return f"init_lora_weights={init[:40]!r} is not known: the base may have been changed"
        return ""

    @property
    def rebased(self) -> bool:
        """Whether loading the adapter also changes the base weights (PiSSA and its like)."""
        init = self.raw.get("init_lora_weights", True)
        return isinstance(init, str) and init.lower() not in PLAIN_INITS


def parse_config(raw: bytes, path: Path) -> PeftConfig:
    """The bytes of an adapter_config.json as typed fields.

    Raises:
        AdapterError: if it is broken, or a field has a value it cannot have.
        UnsupportedError: if it is the config of another method than LoRA.
    """
    refuse_stand_in(path, raw[:64])
    return validated(parse(raw, str(path), marks=MAX_MARKS, hint=HINT))


def validated(raw: Mapping[str, Any]) -> PeftConfig:
    """The config as typed fields; see `parse_config` for what it raises."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        if not isinstance(kind, str):
            raise fields.refusal("peft_type", kind, "'LORA'")
        reason = OTHER_TYPES.get(kind, "it is not LoRA")
        raise UnsupportedError(
            f"cannot judge an adapter of type {kind[:40]!r}: {reason}",
            hint="s3lora reads LoRA adapters; train or convert it as LoRA to have it scored",
        )
    init = raw.get("init_lora_weights", True)
    if not isinstance(init, (str, bool, type(None))):
        raise fields.refusal("init_lora_weights", init, "true, false or a name")
    layers = raw.get("layers_to_transform")
    numbers = fields.listed("layers_to_transform", [layers] if type(layers) is int else layers, int)
    ranks = fields.mapping(raw, "rank_pattern")
    alphas = fields.mapping(raw, "alpha_pattern")
    return PeftConfig(
        raw=raw,
        r=fields.rank("r", raw.get("r")),
        alpha=fields.number("lora_alpha", raw.get("lora_alpha")),
        rslora=fields.flag(raw, "use_rslora"),
        ranks={key: fields.rank("rank_pattern", value) for key, value in ranks.items()},
        alphas={key: fields.number("alpha_pattern", value) for key, value in alphas.items()},
        targets=fields.targets(raw, "target_modules"),
        excluded=fields.targets(raw, "exclude_modules") or (),
        saved=frozenset(fields.names(raw, "modules_to_save")),
        parameters=fields.names(raw, "target_parameters"),
        layers=frozenset(numbers) if numbers else None,
        layer_lists=fields.names(raw, "layers_pattern", MAX_LAYER_LISTS),
    )


@dataclass(frozen=True, slots=True)
class Resolved:
    """A config's answers for the modules of one file."""

    scaling: Mapping[str, float]
    """s by module."""
    rank: Mapping[str, int]
    """r by module, as the config has it."""
    targeted: frozenset[str]
    """The modules that PEFT would adapt."""
    findings: tuple[Finding, ...]
    """Targets and patterns that match no module."""


def resolve(config: PeftConfig, names: Sequence[ModuleName]) -> Resolved:
    """Ask the config for the rank, scale and targeting of every module at once.

    All patterns of the config share one bound on time.

    Raises:
        AdapterError: if the patterns are invalid or take too long.
    """
    matcher = Matcher(names)
    keys = dict.fromkeys([*config.ranks, *config.alphas])
    matches = matcher.keys(keys)
    ranks = _first_match(config.ranks, matches)
    alphas = _first_match(config.alphas, matches)
    rank: dict[str, int] = {name: ranks.get(name, config.r) for name in names}
    chosen = _chosen(config, names, matcher)
    return Resolved(
        scaling={
            name: alphas.get(name, config.alpha) / (math.sqrt(r) if config.rslora else r)
            for name, r in rank.items()
        },
        rank=rank,
        targeted=frozenset(
            _ending_in(config.parameters, names) | (chosen - _left_out(config, matcher))
        ),
        findings=(*_dead_patterns(keys, matches), *_missing_targets(config, names, chosen)),
    )


def _first_match(pattern: Mapping[str, _T], matches: Mapping[str, set[str]]) -> dict[str, _T]:
    """For each matched name the value of the first key that matches it, as PEFT picks it."""
    picked: dict[str, _T] = {}
    for key, value in pattern.items():
        for name in matches.get(key, ()):
            picked.setdefault(name, value)
    return picked


def _chosen(config: PeftConfig, names: Sequence[ModuleName], matcher: Matcher) -> set[str]:
    """The modules that `target_modules` picks, before any is left out."""
    if config.targets is None:
        return set() if config.parameters else set(names)
    if isinstance(config.targets, str):
        every = config.targets.lower() == "all-linear"
        return set(names) if every else matcher.whole(config.targets)
    exact = frozenset(config.targets)
    return {name for name in _ending_in(exact, names) if name in exact or _in_layers(config, name)}


def _ending_in(wanted: Collection[str], names: Iterable[str]) -> set[str]:
    """The names that are one of those wanted, or end in one after a dot."""
    known = frozenset(wanted)
    return {name for name in names if not known.isdisjoint(endings(name))} if known else set()


def _left_out(config: PeftConfig, matcher: Matcher) -> set[str]:
    """The modules that `exclude_modules` names, and those in or below one of `modules_to_save`."""
    below: set[str] = set().union(*matcher.plain(config.saved, within=True).values())
    if isinstance(config.excluded, str):
        return below | matcher.whole(config.excluded)
    return below | _ending_in(config.excluded, matcher.names)


def _in_layers(config: PeftConfig, name: str) -> bool:
    """Whether the module's layer is among `layers_to_transform`."""
    if config.layers is None:
        return True
    if not config.layer_lists:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", name)
    else:
        tries = (re.match(rf"(?:^|.*?\.){one}\.(\d+)\.", name) for one in config.layer_lists)
        found = next(filter(None, tries), None)
    return found is not None and int(found[1]) in config.layers


def _dead_patterns(keys: Iterable[str], matches: Mapping[str, set[str]]) -> list[Finding]:
    return [
        Finding("dead-pattern", "low", key, "this rank or alpha pattern matches no module")
        for key in keys
        if key not in matches
    ]


def _missing_targets(
    config: PeftConfig, names: Sequence[ModuleName], chosen: Collection[str]
) -> list[Finding]:
    def missing(where: str, field: str) -> Finding:
        text = f"{field} names it, but the file carries no such module"
        return Finding("missing-module", "medium", where, text)

    targets = () if isinstance(config.targets, str) else config.targets or ()
    wanted = frozenset((*targets, *config.parameters))
    carried = {ending for name in names for ending in endings(name) if ending in wanted}
    rows = [missing(target, "target_modules") for target in targets if target not in carried]
    if isinstance(config.targets, str) and not chosen:
        rows.append(missing(config.targets, "target_modules"))
    return rows + [missing(p, "target_parameters") for p in config.parameters if p not in carried]
