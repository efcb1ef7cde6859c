"""PEFT's layout: what the tensors of each module mean, and what else is in the file.

Every tensor is classified: a factor of a module, a part of a module that is not plain LoRA, or
payload, which is a finding (`peft_payload`). What decides a module's rank, scale and targeting is
the config's (`peft_targets`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from s3lora.adapter import Adapter, Kind, ModuleName, Slot, Variant, by_name
from s3lora.errors import AdapterError
from s3lora.findings import SEVERITIES, Finding
from s3lora.io.patterns import Matcher
from s3lora.io.peft_config import OTHER_VARIANTS, PeftConfig
from s3lora.io.peft_keys import PREFIX, Group, ParsedKey, group_tensors, parse_keys
from s3lora.io.peft_payload import Payload
from s3lora.io.peft_settings import setting_findings
from s3lora.io.peft_stacks import Stacks, unwrapped
from s3lora.io.peft_targets import TIED, Resolved, resolve, targeted_modules
from s3lora.io.safetensors import FLOATS, HINT, MAX_TENSORS, TensorFile, TensorInfo

__all__ = ["PREFIX", "adapter_from"]

MAX_RANK = 1024
"""Largest rank that is scored: the time of a decomposition grows with its cube."""
MAX_NUMBERS = 5 * 2**24
"""Most numbers in both factors of a module that is scored: a vocabulary of 262,144 at rank 256,
and a quarter as many again. This and the two limits below bound the memory of a scan."""
MAX_SIDE = 2**22
"""Most rows or columns of an update that is scored."""
MAX_STACK = 2**29
"""Largest stored factor of stacked experts that is read, in bytes: it is read as a whole."""
MAX_NOTES = 1000
"""How many low findings there are about patterns, and about settings, at most."""


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
}


def adapter_from(
    ref: str, config: PeftConfig, tensors: TensorFile, findings: Iterable[Finding]
) -> Adapter:
    """Make an adapter of a PEFT config and file.

    Raises:
        AdapterError: if the file holds no LoRA tensors at all, or the config's expressions are
            invalid or take too long.
    """
    parsed, others = parse_keys(tensors.infos)
    if not parsed:
        raise AdapterError(
            f"{tensors.path} holds no LoRA tensors ({len(tensors.infos)} tensors in all)",
            hint="a partitioned (ZeRO-3) run must gather the weights before it saves them",
        )
    payload = Payload(others, tensors.infos, config)
    matcher = Matcher()
    groups, odd_keys = group_tensors(parsed, _stacks(config, parsed, matcher))
    carried = list(dict.fromkeys(group.target for group in groups))
    resolved = resolve(config, carried, matcher, saved=payload.saved_modules)
    embedded = [group.target for group in groups if group.embedding]
    settings = setting_findings(config, resolved.rank, embedded)
    rows = [*findings, *odd_keys, *_few(resolved.findings), *_few(settings)]
    slots: dict[ModuleName, Slot] = {}
    paths: dict[str, Slot] = {}
    for group in groups:
        slot, faults = _slot(group, tensors.infos, config, resolved)
        rows += faults
        paths[parsed[slot.keys[0]].path] = slot
        if len(slots) + slot.experts > MAX_TENSORS:
            raise AdapterError(f"{tensors.path} stacks more than {MAX_TENSORS} experts", hint=HINT)
        for name, one in _unstacked(group, slot):
            rows += _add(slots, name, one)
    rows += _uneven_stacks(slots)
    rows += payload.findings(paths)
    rows.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Adapter(ref, config.raw, by_name(slots), tensors, tuple(rows))


def _stacks(config: PeftConfig, parsed: Mapping[str, ParsedKey], matcher: Matcher) -> Stacks:
    """Where the file has the stacked parameters that the config targets."""
    if not config.parameters:
        return Stacks((), (), ())
    paths = list(dict.fromkeys(one.path for one in parsed.values()))
    names = list(dict.fromkeys(ModuleName(unwrapped(path)) for path in paths))
    return Stacks(config.parameters, paths, targeted_modules(config, names, matcher))


def _few(findings: Iterable[Finding]) -> list[Finding]:
    """Findings about a config, of which low ones beyond `MAX_NOTES` are counted only."""
    rows = list(findings)
    low = [finding for finding in rows if finding.severity == "low"]
    if len(low) <= MAX_NOTES:
        return rows
    rest = Finding(low[-1].rule, "low", "adapter_config.json", f"{len(low) - MAX_NOTES} more")
    return [*(finding for finding in rows if finding.severity != "low"), *low[:MAX_NOTES], rest]


def _add(slots: dict[ModuleName, Slot], name: ModuleName, slot: Slot) -> list[Finding]:
    """Add a module; two of one name, an expert and another module, are kept as one unscored."""
    if name not in slots:
        slots[name] = slot
        return []
    keys = (*slots[name].keys, *slot.keys)
    slots[name] = replace(slot, keys=keys, unscored="two modules of the file have its name")
    return [Finding("ambiguous-module", "high", name, "two modules of the file have this name")]


def _uneven_stacks(slots: Mapping[ModuleName, Slot]) -> Iterator[Finding]:
    """Modules whose stacked parameters hold different numbers of experts at the config's ranks."""
    first: dict[str, Slot] = {}
    for slot in slots.values():
        if slot.experts == 1 or slot.expert:
            continue
        module = slot.parameter.rpartition(".")[0]
        other = first.setdefault(module, slot)
        if other.experts != slot.experts:
            text = f"at its rank it has {slot.experts} experts, {other.parameter} {other.experts}"
            yield Finding("shape-mismatch", "high", slot.parameter, text)


def _slot(
    group: Group, infos: Mapping[str, TensorInfo], config: PeftConfig, resolved: Resolved
) -> tuple[Slot, list[Finding]]:
    """One module, or one stack of experts as a whole, and what is odd about it."""
    name, keys = group.name, group.keys
    scaling, rank = resolved.scaling[group.target], resolved.rank[group.target]
    findings = _extra_findings(group, config)
    tied = resolved.ties and name.rpartition(".")[2] in TIED
    if not tied and not _targeted(group, infos, config, resolved):
        text = "the config does not target it: PEFT leaves it out, vLLM and llama.cpp apply it"
        findings.append(Finding("untargeted-module", "high", name, text))
    fault = _missing(group) or _misshapen(
        group, infos[keys[0]].shape, infos[keys[1]].shape, rank, cut=config.rebased
    )
    target = "" if group.target == name else group.target
    parameter = name if group.stacked else ""
    if fault:
        slot = Slot(keys, "linear", 0, (0, 0), scaling, unscored=fault.message)
        return replace(slot, target=target, parameter=parameter), [fault, *findings]
    A, B = infos[keys[0]], infos[keys[1]]
    columns = math.prod(A.shape[1:])
    kind: Kind = "convolution" if len(A.shape) > 2 else "linear"
    slot = Slot(keys, kind, A.shape[0], (B.shape[0], columns), scaling, target=target)
    if group.embedding:
        slot = replace(slot, kind="embedding", shape=(columns, B.shape[0]))
    if group.stacked:
        slot = replace(slot, kind="expert", rank=rank, experts=A.shape[0] // rank)
    if slot.kind == "linear":
        slot = replace(slot, transposed=bool(config.raw.get("fan_in_fan_out")))
    unscored = _unscored(group, (A, B), config) or _too_large(slot, max(A.nbytes, B.nbytes))
    if slot.rank > MAX_RANK:
        unscored = f"its rank is {slot.rank}, more than {MAX_RANK}"
    return replace(slot, unscored=unscored, variant=_variant(group, slot, config)), findings


def _targeted(
    group: Group, infos: Mapping[str, TensorInfo], config: PeftConfig, resolved: Resolved
) -> bool:
    """Whether PEFT would adapt the module; `all-linear` means linear layers and no others."""
    if group.stacked:
        return True
    if group.target not in resolved.targeted:
        return False
    factors = [infos[key] for part in group.pair for key in group.parts.get(part, ())]
    linear = not group.embedding and all(len(info.shape) == 2 for info in factors)
    return linear or not config.every_linear


def _variant(group: Group, slot: Slot, config: PeftConfig) -> Variant | None:
    """How the true update follows from the base weights, where it does."""
    init = config.raw.get("init_lora_weights", True)
    extras = group.parts.keys() - set(group.pair)
    reasons = [field for field in OTHER_VARIANTS if config.sets(field)]
    if slot.kind != "linear" or config.raw.get("lora_bias"):
        return None
    if reasons == ["use_dora"] and extras == {"magnitude_vector"} and not config.rebased:
        return "dora"
    if reasons or extras or not isinstance(init, str):
        return None
    if init == "pissa":
        return "pissa"
    return "olora" if init.lower() == "olora" and not slot.transposed else None


def _missing(group: Group) -> Finding | None:
    """Whether a factor is missing, or there twice."""
    for part in group.pair:
        if len(group.parts.get(part, ())) > 1:
            text = f"several tensors claim to be its lora_{part}; loaders differ in which one wins"
            return Finding("ambiguous-module", "high", group.name, text)
    for part in group.pair:
        if part not in group.parts:
            text = f"lora_{part} is missing"
            return Finding("incomplete-module", "high", group.name, text)
    return None


def _misshapen(
    group: Group, A: tuple[int, ...], B: tuple[int, ...], rank: int, *, cut: bool
) -> Finding | None:
    """Whether the shapes of the factors contradict each other or the config.

    Factors that are cut out of the base weights have at most the rank of these.
    """
    shown = f"A {list(A)} and B {list(B)}"
    if len(A) < 2 or len(B) < 2 or 0 in A or 0 in B:
        text = f"{shown} hold no factors: a partitioned (ZeRO-3) save that was not gathered"
        return Finding("broken-tensor", "high", group.name, text)
    if not _fit(A, B, flat=group.stacked or group.embedding):
        text = f"the shapes of {shown} do not fit each other"
        return Finding("shape-mismatch", "high", group.name, text)
    if cut and not group.stacked and not group.embedding and len(A) == 2:
        rank = min(rank, A[1], B[0])
    if A[0] % rank if group.stacked else A[0] != rank:
        text = f"{shown} have rank {A[0]}, the config says {rank}"
        return Finding("shape-mismatch", "high", group.name, text)
    return None


def _fit(A: tuple[int, ...], B: tuple[int, ...], *, flat: bool) -> bool:
    """Whether B·A is an update: of a matrix, or of a convolution, whose B has a 1×1 kernel."""
    if len(A) != len(B) or (flat and len(A) > 2):
        return False
    grouped = len(A) > 2 and A[0] % B[1] == 0
    return (A[0] == B[1] or grouped) and all(length == 1 for length in B[2:])


def _extra_findings(group: Group, config: PeftConfig) -> list[Finding]:
    """Parts beside the factors that nothing explains, or that the config does not announce."""
    findings: list[Finding] = []
    for part, keys in group.parts.items():
        extra = EXTRAS.get(part)
        if part in group.pair or (extra and config.sets(extra.field)):
            continue
        text = "no known layout explains it"
        if extra:
            text = f"the config does not set {extra.field}, so PEFT ignores it"
        findings += (Finding("unknown-tensor", "medium", key, text) for key in keys)
    return findings


def _unscored(group: Group, factors: tuple[TensorInfo, TensorInfo], config: PeftConfig) -> str:
    """Why the update cannot be judged from the two factors; empty if it can."""
    if config.unscored:
        return config.unscored
    if group.unnamed:
        return "a stack of experts of which the config does not tell whose it is"
    for part in group.parts:
        if part not in group.pair:
            known = EXTRAS.get(part)
            return known.reason if known else f"it carries lora_{part}, which is not plain LoRA"
    A, B = factors
    if A.shape[0] != B.shape[1]:
        return "a grouped convolution: its update is not s·B·A"
    odd = [info.dtype for info in factors if info.dtype not in FLOATS]
    return f"its factors are stored as {odd[0]}, which is no floating type" if odd else ""


def _too_large(slot: Slot, nbytes: int) -> str:
    """Why the module takes more memory than a scan may use; empty if it does not."""
    if slot.parameters > MAX_NUMBERS:
        return f"its factors hold {slot.parameters} numbers, more than {MAX_NUMBERS}"
    if max(slot.shape) > MAX_SIDE:
        return f"its update has a side of {max(slot.shape)}, more than {MAX_SIDE}"
    if slot.kind == "expert" and nbytes > MAX_STACK:
        return f"a factor of its experts has {nbytes} bytes, more than {MAX_STACK}"
    return ""


def _unstacked(group: Group, slot: Slot) -> Iterator[tuple[ModuleName, Slot]]:
    """A module by its name; a stack of experts as one module for each."""
    if slot.kind != "expert":
        yield group.name, slot
        return
    for expert in range(slot.experts):
        name = ModuleName(f"{group.name}[{expert}]")
        yield name, replace(slot, expert=expert, parameter=group.name)
