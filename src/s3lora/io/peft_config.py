"""PEFT's adapter_config.json: read strictly, and asked the questions that decide an update.

Which rank and which scale does a module have, does the config target it at all, and is the update
of a kind that the two factors alone determine?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from s3lora.adapter import ModuleName
from s3lora.errors import AdapterError, UnsupportedError
from s3lora.findings import Finding
from s3lora.io import patterns
from s3lora.io.safetensors import name_fault, open_regular
from s3lora.io.strict_json import parse

_T = TypeVar("_T")

MAX_CONFIG = 16 * 2**20
"""Largest config read, in bytes: one that targets 80,000 expert modules by name has 5 MB."""

HINT = "an adapter needs the adapter_config.json that was saved with it"

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
    saved: tuple[str, ...]
    """`modules_to_save`."""
    parameters: tuple[str, ...]
    """`target_parameters`."""
    layers: tuple[int, ...] | None
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
                f"init_lora_weights={init!r}: training started from A and B cut out of the base "
                "weights, so the file's s·B·A is not the update"
            )
        if isinstance(init, str) and init.lower() not in PLAIN_INITS:
            return f"init_lora_weights={init[:40]!r} is not known: the base may have been changed"
        return ""

    @property
    def rebased(self) -> bool:
        """Whether loading the adapter also changes the base weights (PiSSA and its like)."""
        init = self.raw.get("init_lora_weights", True)
        return isinstance(init, str) and init.lower() not in PLAIN_INITS


def read_config(path: Path) -> PeftConfig:
    """Read and validate an adapter_config.json.

    Raises:
        AdapterError: if it is missing, broken, or a field has a value it cannot have.
        UnsupportedError: if it is the config of another method than LoRA.
    """
    if not path.exists():
        raise AdapterError(f"{path} is missing, so the scale of the update is unknown", hint=HINT)
    fd, size = open_regular(path)
    with open(fd, "rb") as file:
        if size > MAX_CONFIG:
            raise AdapterError(f"{path} has {size} bytes, more than {MAX_CONFIG}", hint=HINT)
        raw = parse(file.read(), str(path), marks=1_000_000, hint=HINT)
    return validated(raw)


def validated(raw: Mapping[str, Any]) -> PeftConfig:
    """The config as typed fields; see `read_config` for what it raises."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        if not isinstance(kind, str):
            raise _refusal("peft_type", kind, "'LORA'")
        reason = OTHER_TYPES.get(kind, "it is not LoRA")
        raise UnsupportedError(
            f"cannot judge an adapter of type {kind[:40]!r}: {reason}",
            hint="s3lora reads LoRA adapters; train or convert it as LoRA to have it scored",
        )
    init = raw.get("init_lora_weights", True)
    if not isinstance(init, (str, bool, type(None))):
        raise _refusal("init_lora_weights", init, "true, false or a name")
    layers = raw.get("layers_to_transform")
    ints = _list("layers_to_transform", [layers] if type(layers) is int else layers, int)
    return PeftConfig(
        raw=raw,
        r=_rank("r", raw.get("r")),
        alpha=_number("lora_alpha", raw.get("lora_alpha")),
        rslora=_flag(raw, "use_rslora"),
        ranks={k: _rank("rank_pattern", v) for k, v in _mapping(raw, "rank_pattern").items()},
        alphas={k: _number("alpha_pattern", v) for k, v in _mapping(raw, "alpha_pattern").items()},
        targets=_targets(raw, "target_modules"),
        excluded=_targets(raw, "exclude_modules") or (),
        saved=_names(raw, "modules_to_save"),
        parameters=_names(raw, "target_parameters"),
        layers=ints or None,
        layer_lists=_names(raw, "layers_pattern"),
    )


def _refusal(field: str, value: object, wanted: str) -> AdapterError:
    shown = "is missing" if value is None else f"is {str(value)[:60]!r}"
    return AdapterError(f"adapter_config.json: {field} {shown}, expected {wanted}", hint=HINT)


def _rank(field: str, value: object) -> int:
    if type(value) is not int or value <= 0:
        raise _refusal(field, value, "a whole number above zero")
    return value


def _number(field: str, value: object) -> float:
    if type(value) not in (int, float):
        raise _refusal(field, value, "a number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _refusal(field, value, "a finite number")
    return number


def _flag(raw: Mapping[str, Any], field: str) -> bool:
    value = raw.get(field)
    if not isinstance(value, (bool, type(None))):
        raise _refusal(field, value, "true or false")
    return bool(value)


def _mapping(raw: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = raw.get(field) or {}
    if not isinstance(value, dict):
        raise _refusal(field, value, "an object")
    return value


def _list(field: str, value: object, kind: type) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or any(type(item) is not kind for item in value):
        raise _refusal(field, value, f"a list of {kind.__name__}")
    return tuple(value)


def _names(raw: Mapping[str, Any], field: str) -> tuple[str, ...]:
    value = raw.get(field)
    names = _list(field, [value] if isinstance(value, str) else value, str)
    for name in names:
        if not patterns.is_plain(name):
            raise _refusal(field, name, "plain names")
    return names


def _targets(raw: Mapping[str, Any], field: str) -> str | tuple[str, ...] | None:
    value = raw.get(field)
    if value is None or isinstance(value, str):
        return value or None
    names: tuple[str, ...] = _list(field, value, str)
    for name in names:
        if name_fault(name):
            raise _refusal(field, name, "names of modules")
    return names


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

    All expressions of the file are run together, so that one bound on time holds for all.

    Raises:
        AdapterError: if the expressions are invalid or take too long.
    """
    keys = dict.fromkeys([*config.ranks, *config.alphas])
    plain = patterns.plain_suffix_matches((k for k in keys if patterns.is_plain(k)), names)
    odd = [key for key in keys if not patterns.is_plain(key)]
    wholes = [
        expression
        for expression in (config.targets, config.excluded)
        if isinstance(expression, str) and expression.lower() != "all-linear"
    ]
    expressions = [*map(patterns.suffix_pattern, odd), *wholes]
    hits = patterns.full_matches(expressions, names)
    matches = plain | dict(zip(odd, hits, strict=False))
    by_expression = dict(zip(expressions[len(odd) :], hits[len(odd) :], strict=True))
    ranks = _first_match(config.ranks, matches)
    alphas = _first_match(config.alphas, matches)
    rank: dict[str, int] = {name: ranks.get(name, config.r) for name in names}
    targeted = _targeted(config, names, by_expression)
    return Resolved(
        scaling={
            name: alphas.get(name, config.alpha) / (math.sqrt(r) if config.rslora else r)
            for name, r in rank.items()
        },
        rank=rank,
        targeted=frozenset(targeted),
        findings=(*_dead_patterns(keys, matches), *_missing_targets(config, names, by_expression)),
    )


def _first_match(pattern: Mapping[str, _T], matches: Mapping[str, set[str]]) -> dict[str, _T]:
    """For each matched name the value of the first key that matches it, as PEFT picks it."""
    picked: dict[str, _T] = {}
    for key, value in pattern.items():
        for name in matches[key]:
            picked.setdefault(name, value)
    return picked


def _ends_with(name: str, suffixes: frozenset[str]) -> bool:
    """Whether a name is one of the suffixes, or ends in one after a dot."""
    pieces = name.split(".")
    return any(".".join(pieces[start:]) in suffixes for start in range(len(pieces)))


def _targeted(
    config: PeftConfig, names: Sequence[ModuleName], by_expression: Mapping[str, set[str]]
) -> list[str]:
    parameters = frozenset(config.parameters)
    suffixes = frozenset(config.targets if isinstance(config.targets, tuple) else ())
    excluded = frozenset(config.excluded if isinstance(config.excluded, tuple) else ())

    def holds(name: str) -> bool:
        if parameters and _ends_with(name, parameters):
            return True
        if isinstance(config.excluded, str) and name in by_expression[config.excluded]:
            return False
        if _ends_with(name, excluded) or any(_within(name, saved) for saved in config.saved):
            return False
        if config.targets is None:
            return not parameters
        if isinstance(config.targets, str):
            return name in by_expression.get(config.targets, names)
        return name in suffixes or (_ends_with(name, suffixes) and _in_layers(config, name))

    return [name for name in names if holds(name)]


def _within(name: str, module: str) -> bool:
    """Whether a name is `module`, ends in it, or lies below it, at the dots."""
    return f".{module}." in f".{name}."


def _in_layers(config: PeftConfig, name: str) -> bool:
    """Whether the module's layer is among `layers_to_transform`."""
    if config.layers is None:
        return True
    pieces = name.split(".")
    for at, piece in enumerate(pieces[:-1]):
        named = config.layer_lists
        if piece.isdecimal() and at > (0 if named else 1):
            before = ".".join(pieces[:at])
            if not named or _ends_with(before, frozenset(named)):
                return int(piece) in config.layers
    return False


def _dead_patterns(keys: Mapping[str, None], matches: Mapping[str, set[str]]) -> list[Finding]:
    return [
        Finding("dead-pattern", "low", key, "this rank or alpha pattern matches no module")
        for key in keys
        if not matches[key]
    ]


def _missing_targets(
    config: PeftConfig, names: Sequence[ModuleName], by_expression: Mapping[str, set[str]]
) -> list[Finding]:
    def missing(where: str, field: str) -> Finding:
        text = f"{field} names it, but the file carries no such module"
        return Finding("missing-module", "medium", where, text)

    endings = {".".join(n.split(".")[at:]) for n in names for at in range(n.count(".") + 1)}
    if isinstance(config.targets, str):
        found = by_expression.get(config.targets, set(names))
        rows = [] if found else [missing(config.targets, "target_modules")]
    else:
        rows = [missing(t, "target_modules") for t in config.targets or () if t not in endings]
    return rows + [missing(p, "target_parameters") for p in config.parameters if p not in endings]
