"""PEFT's layout: which tensors make which module, and what else is in the file.

Every tensor is classified: a factor of a module, a part of a module that is not plain LoRA, or
payload, which is a finding. What decides a module's rank, scale and targeting is the config's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from s3lora.adapter import Adapter, Kind, ModuleName, Slot, by_name
from s3lora.errors import AdapterError
from s3lora.findings import SEVERITIES, Finding, Severity
from s3lora.io.peft_config import KNOWN_FIELDS, PeftConfig, Resolved, resolve
from s3lora.io.safetensors import FLOATS, TensorFile, TensorInfo

PREFIX = "base_model.model."


class Extra(NamedTuple):
    """A part of a module beside its two factors."""

    field: str
    """The config field that announces it."""
    reason: str
    """Why a module with it cannot be judged from the file."""


EXTRAS = {
    "magnitude_vector": Extra("use_dora", "DoRA: the true update depends on the base weights"),
    "B.bias": Extra("lora_bias", "lora_bias: the update has a bias term beside s·B·A"),
    "A.bias": Extra("lora_bias", "lora_bias: the update has a bias term beside s·B·A"),
    "diag": Extra("kasa_config", "KaSA: the update has a diagonal between B and A"),
    "monteclora_sampler": Extra("monteclora_config", "MonteCLoRA samples its update"),
    "velora_embed": Extra("velora_config", "VeLoRA: the update is not s·B·A"),
    "E": Extra("peft_type", "AdaLoRA: the update is B·(A∘E)"),
}

FACTORS = {"A", "B", "embedding_A", "embedding_B"}


class ParsedKey(NamedTuple):
    """A tensor's key taken apart."""

    path: str
    """The module's path, cleaned of what loaders and compilers leave in it."""
    part: str
    """What of the module it is: A, B, embedding_A, magnitude_vector, …"""
    oddity: tuple[Severity, str] | None
    """Severity and text of what is unusual about the key, if anything is."""


def parse_key(key: str) -> ParsedKey | None:
    """Take the key of a LoRA tensor apart; None if it is no LoRA tensor."""
    path, mark, tail = key.rpartition(".lora_")
    if not mark or not path:
        return None
    part, *rest = tail.split(".")
    leaf = rest.pop() if rest and rest[-1] in ("weight", "bias") else ""
    if len(rest) > 1 or (part in ("A", "B") and not leaf):
        return None
    part += ".bias" if leaf == "bias" else ""
    path, oddity = _clean(path)
    if rest and not oddity:
        oddity = ("low", f"the key holds the adapter's name {rest[0]!r}: PEFT loads it, vLLM not")
    return ParsedKey(path, part, oddity)


def _clean(path: str) -> tuple[str, tuple[Severity, str] | None]:
    """The path in the base model, and what was odd about the prefix."""
    cleaned = ".".join(piece for piece in path.split(".") if piece != "_orig_mod")
    name = cleaned
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    if cleaned != path:
        return name, ("medium", "the key holds _orig_mod of a compiled model: PEFT ignores it")
    if name == path:
        return name, ("medium", f"the key lacks the prefix {PREFIX!r}: PEFT ignores it")
    if path != PREFIX + name:
        return name, ("medium", f"the key has the prefix {PREFIX!r} twice: PEFT ignores it")
    if name.startswith("language_model."):
        return name, ("low", "PEFT ignores the key unless the base has a module language_model")
    return name, None


@dataclass(slots=True)
class Group:
    """The LoRA tensors of one path: a module, or a stack of experts."""

    target: ModuleName
    """What the config knows it by: the module's path, or that of a stacked parameter."""
    stacked: bool
    """Whether the factors stack experts."""
    unnamed: bool
    """Whether it cannot be told which stacked parameter this is."""
    parts: dict[str, str] = field(default_factory=dict)
    """Part -> key."""


def group_tensors(
    keys: Iterable[str], config: PeftConfig
) -> tuple[list[Group], list[str], list[Finding]]:
    """Sort the tensors of a file by module and part; what is not LoRA is the second list.

    A second tensor for a part that is taken already gets a prime: two readings of one module.
    """
    groups: dict[str, Group] = {}
    others: list[str] = []
    findings: list[Finding] = []
    for key in keys:
        parsed = parse_key(key)
        if parsed is None:
            others.append(key)
            continue
        if parsed.oddity:
            findings.append(Finding("unusual-key", parsed.oddity[0], key, parsed.oddity[1]))
        group = groups.setdefault(parsed.path, _group(parsed.path, config))
        part = parsed.part
        while part in group.parts:
            part += "'"
        group.parts[part] = key
    return list(groups.values()), others, findings


def _group(path: str, config: PeftConfig) -> Group:
    """An empty group for a path, named after a stacked parameter where it holds one.

    PEFT wraps the stacked parameters of a module one inside the other, in the order in which the
    model defines them, so that `experts.base_layer` is gate_up_proj and `experts` is down_proj; a
    parameter that is targeted alone is `experts`, whichever it is.
    """
    module = re.sub(r"(\.base_layer)+$", "", path)
    depth = (len(path) - len(module)) // len(".base_layer")
    targets = [target.rpartition(".") for target in config.parameters]
    leaves = [leaf for owner, _, leaf in targets if f".{module}".endswith(f".{owner}")]
    if depth >= len(leaves):
        return Group(ModuleName(path), stacked=False, unnamed=False)
    outer_first = sorted(leaves)  # down_proj is outside gate_up_proj
    named = len(leaves) == 1 or outer_first == ["down_proj", "gate_up_proj"]
    target = f"{module}.{outer_first[depth]}" if named else path
    return Group(ModuleName(target), stacked=True, unnamed=not named)


def adapter_from(
    ref: str, config: PeftConfig, tensors: TensorFile, findings: Iterable[Finding]
) -> Adapter:
    """Make an adapter of a PEFT config and file.

    Raises:
        AdapterError: if the file holds no LoRA tensors at all, or the config's expressions are
            invalid or take too long.
    """
    groups, others, odd_keys = group_tensors(tensors.infos, config)
    if not groups:
        raise AdapterError(
            f"{tensors.path} holds no LoRA tensors ({len(tensors.infos)} tensors in all)",
            hint="a partitioned (ZeRO-3) run must gather the weights before it saves them",
        )
    resolved = resolve(config, [group.target for group in groups])
    rows = [*findings, *odd_keys, *resolved.findings, *_setting_findings(config)]
    slots: dict[ModuleName, Slot] = {}
    for group in groups:
        slot, faults = _slot(group, tensors.infos, config, resolved)
        slots.update(_unstacked(group, slot))
        rows += faults
    rows += (_payload(key, config) for key in others)
    rows.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Adapter(ref, config.raw, by_name(slots), tensors, tuple(rows))


def _slot(
    group: Group, infos: Mapping[str, TensorInfo], config: PeftConfig, resolved: Resolved
) -> tuple[Slot, list[Finding]]:
    """One module, or one stack of experts as a whole, and what is odd about it."""
    parts, name = group.parts, group.target
    embedding = "embedding_A" in parts or "embedding_B" in parts
    a, b = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    keys = tuple(sorted(parts.values(), key=lambda key: (key != parts.get(a), key != parts.get(b))))
    scaling = resolved.scaling[name]
    findings = _extra_findings(group, config)
    if name not in resolved.targeted:
        text = "the config does not target it: PEFT leaves it out, vLLM and llama.cpp apply it"
        findings.append(Finding("untargeted-module", "high", name, text))
    fault = _missing(group, (a, b)) or _misshapen(
        group, infos[parts[a]].shape, infos[parts[b]].shape, resolved.rank[name]
    )
    if fault:
        slot = Slot(keys, "linear", 0, (0, 0), scaling, unscored=fault.message)
        return slot, [fault, *findings]
    A, B = infos[parts[a]], infos[parts[b]]
    columns = math.prod(A.shape[1:])
    kind: Kind = "convolution" if len(A.shape) > 2 else "linear"
    slot = Slot(keys, kind, A.shape[0], (B.shape[0], columns), scaling)
    if embedding:
        slot = replace(slot, kind="embedding", shape=(columns, B.shape[0]))
    if group.stacked:
        rank = resolved.rank[name]
        slot = replace(slot, kind="expert", rank=rank, experts=A.shape[0] // rank)
    return replace(slot, unscored=_unscored(group, (A, B), config)), findings


def _missing(group: Group, pair: tuple[str, str]) -> Finding | None:
    """Whether a factor is missing, or there twice."""
    for part in pair:
        if f"{part}'" in group.parts:
            text = f"several tensors claim to be its lora_{part}; loaders differ in which one wins"
            return Finding("ambiguous-module", "high", group.target, text)
    for part in pair:
        if part not in group.parts:
            text = f"lora_{part} is missing"
            return Finding("incomplete-module", "high", group.target, text)
    return None


def _misshapen(group: Group, A: tuple[int, ...], B: tuple[int, ...], rank: int) -> Finding | None:
    """Whether the shapes of the factors contradict each other or the config."""
    shown = f"A {list(A)} and B {list(B)}"
    if len(A) < 2 or len(B) < 2 or 0 in A or 0 in B:
        text = f"{shown} hold no factors: a partitioned (ZeRO-3) save that was not gathered"
        return Finding("broken-tensor", "high", group.target, text)
    if A[0] != math.prod(B[1:]):
        text = f"the shapes of {shown} do not fit each other"
        return Finding("shape-mismatch", "high", group.target, text)
    if A[0] % rank if group.stacked else A[0] != rank:
        text = f"{shown} have rank {A[0]}, the config says {rank}"
        return Finding("shape-mismatch", "high", group.target, text)
    return None


def _extra_findings(group: Group, config: PeftConfig) -> list[Finding]:
    """Parts beside the factors that nothing explains, or that the config does not announce."""
    findings = []
    for part, key in group.parts.items():
        name = part.rstrip("'")
        if name in FACTORS:
            continue
        extra = EXTRAS.get(name)
        if extra is None:
            findings.append(Finding("unknown-tensor", "medium", key, "no known layout explains it"))
        elif not config.raw.get(extra.field):
            text = f"the config does not set {extra.field}, so PEFT ignores it"
            findings.append(Finding("unknown-tensor", "medium", key, text))
    return findings


def _unscored(group: Group, factors: tuple[TensorInfo, TensorInfo], config: PeftConfig) -> str:
    """Why the update cannot be judged from the two factors; empty if it can."""
    if config.unscored:
        return config.unscored
    if group.unnamed:
        return "a stack of experts of which the config does not tell whose it is"
    for part in group.parts:
        name = part.rstrip("'")
        if name not in FACTORS:
            known = EXTRAS.get(name)
            return known.reason if known else f"it carries lora_{name}, which is not plain LoRA"
    odd = [info.dtype for info in factors if info.dtype not in FLOATS]
    return f"its factors are stored as {odd[0]}, which is no floating type" if odd else ""


def _unstacked(group: Group, slot: Slot) -> Iterator[tuple[ModuleName, Slot]]:
    """A module by its name; a stack of experts as one module for each."""
    if slot.kind != "expert":
        yield group.target, slot
        return
    for expert in range(slot.experts):
        name = ModuleName(f"{group.target}[{expert}]")
        yield name, replace(slot, expert=expert, parameter=group.target)


def _payload(key: str, config: PeftConfig) -> Finding:
    """What a tensor that is not LoRA does to whoever loads the file."""
    pieces = key.removeprefix(PREFIX).split(".")
    owner = "." + ".".join(pieces[:-1]) + "."
    rule = "base-weight-payload"
    if any(f".{saved}." in owner for saved in config.saved):
        text = "replaces weights of the base model; modules_to_save announces it"
        return Finding(rule, "medium", key, text)
    if "trainable_tokens_delta" in pieces and config.raw.get("trainable_token_indices"):
        text = "replaces rows of the base model's embedding; trainable_token_indices announces it"
        return Finding(rule, "medium", key, text)
    if pieces[-1] == "bias" and config.raw.get("bias") in ("all", "lora_only"):
        text = "replaces a bias of the base model; the config's bias announces it"
        return Finding(rule, "medium", key, text)
    if "embed_tokens" in pieces or "lm_head" in pieces:
        text = "replaces an embedding of the base model, as PEFT saves it after a resize"
        return Finding(rule, "medium", key, text)
    if pieces[-1] in ("weight", "bias") or "base_layer" in pieces:
        text = "PEFT loads it over the base model's own weights, and nothing announces it"
        return Finding(rule, "high", key, text)
    return Finding("unknown-tensor", "medium", key, "no known layout explains it")


def _setting_findings(config: PeftConfig) -> Iterator[Finding]:
    """Settings of the config that change how the update is used, or that are not known."""
    if config.raw.get("alora_invocation_tokens"):
        text = "the update is applied only after the invocation tokens (aLoRA)"
        yield Finding("conditional-update", "low", "alora_invocation_tokens", text)
    for name, value in config.raw.items():
        if name not in KNOWN_FIELDS and value:
            yield Finding("unknown-setting", "low", name, "this version does not know the field")
