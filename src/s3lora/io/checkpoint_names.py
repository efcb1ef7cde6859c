"""Names of a checkpoint's tensors that are not those of the model's modules, and what they are.

A checkpoint keeps the names of the day it was first saved, and transformers renames them when it
loads: the language model of LLaVA, Gemma 3 or Qwen2.5-VL moved under `model.language_model`, and
experts that are modules of their own on the hub are stacked into one parameter.

Source
    transformers 5.23, conversion_mapping.py: entries llava, Qwen2VLForConditionalGeneration,
    qwen2_moe, mixtral, jamba and those that refer to them. Where transformers is installed, its
    own mapping is asked for what the table here does not name.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

from s3lora.errors import ParameterError

SPELLINGS = (
    ("model.language_model.", "language_model.model."),  # LLaVA, Gemma 3, PaliGemma, Mistral 3
    ("language_model.model.", "model.language_model."),
    ("model.language_model.", "language_model."),
    ("model.language_model.", "model."),  # Qwen2-VL, Qwen2.5-VL
    ("model.", "model.language_model."),
    ("vision_tower.", "vision_tower.vision_model."),  # CLIP and SigLIP before transformers 5
    ("vision_tower.vision_model.", "vision_tower."),
    (".mlp.experts", ".block_sparse_moe.experts"),  # Mixtral, MiniMax
    (".block_sparse_moe.experts", ".mlp.experts"),
    (".mlp.experts", ".feed_forward.experts"),  # Jamba
)
"""What a module's name holds, and what a checkpoint may hold in its place, once."""

STACKED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "up_proj": (("up_proj",),),
    "down_proj": (("down_proj",), ("w2",)),
}
"""A parameter of stacked experts, and the matrices that each expert's part is made of, one below
the other, by the names that single experts have."""

EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "shared", "tok_embeddings")
"""What the embedding is called to which an output layer is tied."""


WRONG_MODEL = "is it the model that the adapter was trained on?"


class TensorNames:
    """The names of a checkpoint's tensors, to be looked up by those of a model's modules.

    Args:
        keys: The tensors.
        config: The fields of the checkpoint's config.json; none if there is no such file.
        folder: Where the checkpoint is, for messages.
    """

    def __init__(self, keys: Collection[str], config: Mapping[str, Any], folder: Path) -> None:
        self._keys, self._config, self._folder = keys, config, folder
        self._backwards = sorted(key[::-1] for key in keys)

    def of(self, name: str, expert: int | None = None) -> tuple[str, ...]:
        """The tensors that a module's or parameter's matrix is made of; none if there is none.

        Args:
            name: Of the module or parameter.
            expert: Which part of the parameter, if it stacks experts.

        Returns:
            One key, or those of several matrices, one below the other.

        Raises:
            ParameterError: if several tensors could be it.
        """
        key = self._key(name)
        if key:
            return (key,)
        for parts in expert_parts(name, expert) if expert is not None else ():
            keys = tuple(filter(None, map(self._key, parts)))
            if len(keys) == len(parts):
                return keys
        key = self._renamed.get(name)
        return (key,) if key else ()

    def embeddings(self) -> list[str]:
        """The tensors that are the embedding of tokens, by their names."""
        return [key for key in self._keys if is_embedding(key)]

    def nearest(self, name: str) -> tuple[str, str]:
        """The tensor whose name has the longest ending in common with a module's, and the ending.

        An ending is of whole pieces, at least two of them; both are empty if no tensor has one.
        """
        own = f"{name}.weight".split(".")[::-1]

        def shared(key: str) -> list[str]:
            pairs = zip(own, key.split(".")[::-1], strict=False)
            return [piece for piece, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

        best = max(self._keys, key=lambda key: len(shared(key)), default="")
        ending = shared(best)
        return (best, ".".join(ending[::-1])) if len(ending) > 1 else ("", "")

    def _key(self, name: str) -> str | None:
        """The tensor of a module or parameter, as checkpoints may spell it."""
        return next(filter(None, map(self._spelled, spellings(name))), None)

    def _spelled(self, name: str) -> str | None:
        """The tensor of this very name; a prefix may be there on one side only."""
        for tail in (f"{name}.weight", name):
            if tail in self._keys:
                return tail
            found = [*self._shorter(tail), *self._longer(tail)]
            if len(found) > 1:
                raise ParameterError(
                    f"{name} could be {found[0]} or {found[1]} of {self._folder}", hint=WRONG_MODEL
                )
            if found:
                return found[0]
        return None

    def _shorter(self, tail: str) -> Iterator[str]:
        """Tensors whose name is the end of `tail`, of two pieces or more."""
        for start in range(1, tail.count(".")):
            shorter = tail.split(".", start)[-1]
            if shorter in self._keys:
                yield shorter

    def _longer(self, tail: str) -> Iterator[str]:
        """The first two tensors whose name ends with `tail`."""
        ending = f".{tail}"[::-1]
        at = bisect_left(self._backwards, ending)
        for backwards in self._backwards[at : at + 2]:
            if backwards.startswith(ending):
                yield backwards[::-1]

    @cached_property
    def _renamed(self) -> dict[str, str]:
        """The tensors by the names that transformers gives them, where it is installed."""
        return transformers_names(self._keys, self._config)


def spellings(name: str) -> Iterator[str]:
    """A module's name as checkpoints may spell it; its own first."""
    yield name
    for ours, theirs in SPELLINGS:
        at = name.find(ours)
        whole_piece = ours.startswith(".") or at == 0 or (at > 0 and name[at - 1] == ".")
        if at < 0 or not whole_piece or (ours == "model." and at > 0):
            continue
        if theirs.startswith(ours) and name.startswith(theirs, at):
            continue  # it is spelled so already
        yield name[:at] + theirs + name[at + len(ours) :]


def expert_parts(parameter: str, expert: int) -> Iterator[tuple[str, ...]]:
    """The names of the matrices that one expert of a stacked parameter may be made of."""
    owner, _, leaf = parameter.rpartition(".")
    for parts in STACKED.get(leaf, ()):
        yield tuple(f"{owner}.{expert}.{part}" for part in parts)


def tied(config: Mapping[str, Any]) -> bool:
    """Whether a model's output layer has the weights of its embedding, as its config says.

    transformers ties them where nothing is said.
    """
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    value = config.get("tie_word_embeddings", inner)
    return value is None or bool(value)


def is_embedding(key: str) -> bool:
    """Whether a tensor is the embedding of tokens, by its name."""
    pieces = key.removesuffix(".weight").split(".")
    return pieces[-1] in EMBEDDINGS


def transformers_names(keys: Collection[str], config: Mapping[str, Any]) -> dict[str, str]:
    """The tensors by the names that transformers gives them when it loads this model.

    Empty if transformers is not installed, or has no mapping for the model. Tensors that it
    would join or split are left out.
    """
    try:
        mapping: Any = import_module("transformers.conversion_mapping")
    except ImportError:
        return {}
    text = config.get("text_config")
    kinds = [*_texts(config.get("architectures")), config.get("model_type")]
    kinds += [text.get("model_type")] if isinstance(text, dict) else []
    steps = [
        step
        for kind in kinds
        if isinstance(kind, str)
        for step in mapping.get_checkpoint_conversion_mapping(kind) or ()
        if isinstance(step, mapping.WeightRenaming)
    ]
    names = {}
    for key in keys if steps else ():
        name = key
        for step in steps:
            name = step.rename_source_key(name)[0]
        names[re.sub(r"\.weight$", "", name)] = key
    return names


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
