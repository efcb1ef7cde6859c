"""PEFT's names of tensors: which module a key belongs to, and which part of it it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from s3lora.adapter import ModuleName
from s3lora.findings import Finding, Severity
from s3lora.io.peft_stacks import Stacks, unwrapped

PREFIX = "base_model.model."
OUT_PROJ = ".base_layer.out_proj"
"""Where PEFT keeps the output projection of an `nn.MultiheadAttention`: the target is the
attention itself, whose own factors are those of its input projection."""
FACTORS = ("A", "B", "embedding_A", "embedding_B")
SAMPLER = "monteclora_sampler"
OTHER_PARTS = ("magnitude_vector", "diag", SAMPLER, "velora_embed")
"""Parts of a LoRA layer beside its factors."""
SAMPLED = ("expert_weights", "expert_weights_prior", "gaussian_var_prior", "std_prior")
"""The tensors of MonteCLoRA's sampler, which is one part."""
EMBEDDINGS = frozenset(
    ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "shared")
)
"""What input embeddings of language models are called."""
OUTPUTS = frozenset(("lm_head", "embed_out", "output_layer", "output"))
"""What output layers of language models are called."""
WRAPPERS = {
    "_orig_mod": "of a compiled model",
    "_fsdp_wrapped_module": "of a model wrapped by FSDP",
    "_checkpoint_wrapped_module": "of a model with activation checkpoints",
}
"""Names of modules that wrap others and that a save should have left out, and what wraps so."""


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
    if part == SAMPLER and rest and rest[-1] in SAMPLED:
        rest.pop()
    if len(rest) > 1 or (part in ("A", "B") and not leaf):
        return None
    if leaf and part.startswith("embedding_"):  # these have no leaf: PEFT takes it for a name
        rest, leaf = [*rest, leaf], ""
    part += ".bias" if leaf == "bias" else ""
    path, oddity = _clean(path)
    if not path:
        return None
    if rest and not oddity:
        oddity = _named_adapter(".".join(rest))
    return ParsedKey(path, part, oddity)


def _named_adapter(name: str) -> tuple[Severity, str]:
    """What loaders make of a key that holds the name of an adapter."""
    if name == "default":
        return "low", "the key holds the adapter's name 'default': PEFT loads it, vLLM does not"
    text = f"the key holds the adapter's name {name!r}: PEFT ignores it unless loaded by that name"
    return "medium", text


def _clean(path: str) -> tuple[str, tuple[Severity, str] | None]:
    """The path in the base model, and what was odd about the prefix."""
    pieces = path.split(".")
    wrappers = [piece for piece in pieces if piece in WRAPPERS]
    cleaned = ".".join(piece for piece in pieces if piece not in WRAPPERS)
    parallel = cleaned.startswith(f"module.{PREFIX}")
    name = cleaned.removeprefix("module.") if parallel else cleaned
    prefixed = name
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    if wrappers:
        text = f"the key holds {wrappers[0]} {WRAPPERS[wrappers[0]]}: PEFT ignores it"
        return name, ("medium", text)
    if parallel:
        return name, ("medium", "the key holds the module of a parallel model: PEFT ignores it")
    if name == prefixed:
        return name, ("medium", f"the key lacks the prefix {PREFIX!r}: PEFT ignores it")
    if prefixed != PREFIX + name:
        return name, ("medium", f"the key has the prefix {PREFIX!r} twice: PEFT ignores it")
    if "module" in name.split("."):
        text = "the key holds the module of a parallel model: PEFT ignores it unless the base has"
        return name, ("medium", f"{text} a module of that name")
    if name.startswith("language_model."):
        return name, ("low", "PEFT ignores the key unless the base has a module language_model")
    return name, None


@dataclass(slots=True)
class Group:
    """The LoRA tensors of one path: a module, or a stack of experts."""

    name: ModuleName
    """The module in the base model."""
    target: ModuleName
    """What the config knows it by: its name, or that of the module whose part it is."""
    stacked: bool
    """Whether the factors stack experts; name and target are those of the stacked parameter."""
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


def parse_keys(keys: Iterable[str]) -> tuple[dict[str, ParsedKey], list[str]]:
    """The LoRA tensors of a file by key, and the keys of what is not LoRA.

    A part that no version of LoRA has belongs to a module that has factors; where there are none,
    `lora_head.weight`, it is the weight of a module whose name begins with `lora_`.
    """
    keys = list(keys)
    parsed = {key: one for key in keys if (one := parse_key(key))}
    paths = {one.path for one in parsed.values() if _surely_lora(one.part)}
    lora = {key: one for key, one in parsed.items() if one.path in paths or _surely_lora(one.part)}
    return lora, [key for key in keys if key not in lora]


def _surely_lora(part: str) -> bool:
    return part.removesuffix(".bias") in (*FACTORS, *OTHER_PARTS)


def group_tensors(
    parsed: Mapping[str, ParsedKey], stacks: Stacks
) -> tuple[list[Group], list[Finding]]:
    """The LoRA tensors of a file by module and part, and what is unusual about their keys."""
    groups: dict[str, Group] = {}
    findings: list[Finding] = []
    for key, (path, part, oddity) in parsed.items():
        if oddity:
            findings.append(Finding("unusual-key", oddity[0], key, oddity[1]))
        if path not in groups:
            groups[path] = _group(path, stacks)
        groups[path].parts.setdefault(part, []).append(key)
    for group in groups.values():
        if text := _of_another_kind(group):
            findings.append(Finding("unusual-key", "medium", group.keys[0], text))
    return list(groups.values()), findings


def _of_another_kind(group: Group) -> str:
    """Why PEFT ignores factors that a layer of this name does not have; empty if it may have them.

    Of what kind a layer is, only the base model tells for sure.
    """
    pieces = group.name.split(".")
    leaf, ends = pieces[-1], ": PEFT ignores them and leaves the layer as it was"
    numbered = any(piece.isdecimal() for piece in pieces)
    if group.embedding and ((leaf in OUTPUTS and not numbered) or leaf.endswith("_proj")):
        return f"{leaf} is the name of a linear layer, these are factors of an embedding{ends}"
    linear = not group.embedding and not group.stacked and {"A", "B"} & group.parts.keys()
    if linear and leaf in EMBEDDINGS and not numbered:
        return f"{leaf} is the name of an embedding, these are factors of a linear layer{ends}"
    return ""


def _group(path: str, stacks: Stacks) -> Group:
    """An empty group for a path."""
    module = path.removesuffix(OUT_PROJ)
    if module and module != path:
        name = ModuleName(f"{module}.out_proj")
        return Group(name, ModuleName(module), stacked=False, unnamed=False)
    parameter = stacks.parameter(path)
    if parameter is None:
        return Group(ModuleName(path), ModuleName(path), stacked=False, unnamed=False)
    name = ModuleName(f"{unwrapped(path)}.{parameter}" if parameter else path)
    return Group(name, name, stacked=True, unnamed=not parameter)
