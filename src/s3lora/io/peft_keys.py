"""PEFT's names of tensors: which module a key belongs to, and which part of it it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from s3lora.adapter import ModuleName
from s3lora.findings import Finding, Severity
from s3lora.io.patterns import endings

PREFIX = "base_model.model."


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
    if not path:
        return None
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
    parts: dict[str, list[str]] = field(default_factory=dict)
    """Part -> the keys of the tensors that claim to be it."""

    @property
    def embedding(self) -> bool:
        """Whether it is an embedding."""
        return "embedding_A" in self.parts or "embedding_B" in self.parts

    @property
    def pair(self) -> tuple[str, str]:
        """What its two factors are called."""
        return ("embedding_A", "embedding_B") if self.embedding else ("A", "B")

    @property
    def keys(self) -> tuple[str, ...]:
        """Every tensor of it, the two factors first."""
        pair = self.pair
        order = [*pair, *(part for part in self.parts if part not in pair)]
        return tuple(key for part in order for key in self.parts.get(part, ()))


def group_tensors(
    keys: Iterable[str], parameters: Iterable[str]
) -> tuple[list[Group], list[str], list[Finding]]:
    """Sort the tensors of a file by module and part; what is not LoRA is the second list."""
    groups: dict[str, Group] = {}
    others: list[str] = []
    findings: list[Finding] = []
    stacks = _stacks(parameters)
    for key in keys:
        parsed = parse_key(key)
        if parsed is None:
            others.append(key)
            continue
        if parsed.oddity:
            findings.append(Finding("unusual-key", parsed.oddity[0], key, parsed.oddity[1]))
        if parsed.path not in groups:
            groups[parsed.path] = _group(parsed.path, stacks)
        groups[parsed.path].parts.setdefault(parsed.part, []).append(key)
    return list(groups.values()), others, findings


def _stacks(parameters: Iterable[str]) -> dict[str, list[str]]:
    """The stacked parameters that the config targets, by the ending of the module they are in."""
    stacks: dict[str, list[str]] = {}
    for parameter in parameters:
        owner, _, leaf = parameter.rpartition(".")
        stacks.setdefault(owner, []).append(leaf)
    return stacks


def _group(path: str, stacks: Mapping[str, list[str]]) -> Group:
    """An empty group for a path, named after a stacked parameter where it holds one.

    PEFT wraps the stacked parameters of a module one inside the other, in the order in which the
    model defines them, so that `experts.base_layer` is gate_up_proj and `experts` is down_proj; a
    parameter that is targeted alone is `experts`, whichever it is.
    """
    if not stacks:
        return Group(ModuleName(path), stacked=False, unnamed=False)
    module = path
    while module.endswith(".base_layer"):
        module = module.removesuffix(".base_layer")
    depth = (len(path) - len(module)) // len(".base_layer")
    leaves = {leaf for ending in endings(module) for leaf in stacks.get(ending, ())}
    if depth >= len(leaves):
        return Group(ModuleName(path), stacked=False, unnamed=False)
    outer_first = sorted(leaves)  # down_proj is outside gate_up_proj
    named = len(leaves) == 1 or outer_first == ["down_proj", "gate_up_proj"]
    target = f"{module}.{outer_first[depth]}" if named else path
    return Group(ModuleName(target), stacked=True, unnamed=not named)
