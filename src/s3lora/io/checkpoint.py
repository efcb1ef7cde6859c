"""The weights of a model, one matrix at a time: a Hugging Face checkpoint folder in safetensors.

A model is never loaded. Tensors are matched to modules by name, and their shapes are checked from
the headers before anything is read.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s3lora.adapter import Adapter, ModuleName, Slot
from s3lora.errors import AdapterError, ParameterError, UnsupportedError
from s3lora.io.safetensors import FLOATS, TensorFile, TensorInfo, name_fault, read_small
from s3lora.io.strict_json import parse
from s3lora.linalg import Array

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 * 2**20
"""Largest index read, in bytes."""
MAX_MARKS = 1_000_000
"""Most marks of JSON in an index: of half a million tensors."""

HINT = "give the folder of a Hugging Face checkpoint in safetensors"
WRONG_MODEL = "is it the model that the adapter was trained on?"
UNQUANTISED = "give the checkpoint before it was quantised"

SCALES = ("_scale", "_scale_inv", ".absmax")
"""What quantisers append to a tensor's name for the factors that its codes are multiplied by."""


class Checkpoint:
    """A checkpoint folder: one model.safetensors, or shards with their index.

    Raises:
        AdapterError: if the folder holds no checkpoint in safetensors, or a broken one.
        UnsupportedError: if its weights are quantised, so that their values are not in the file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        _refuse_quantised(self.folder)
        self._shards: dict[str, TensorFile] = {}
        self._shard_of = self._index()
        self._backwards = sorted(key[::-1] for key in self._shard_of)

    def _index(self) -> Mapping[str, str]:
        """The file that each tensor is in."""
        if os.path.lexists(self.folder / SINGLE):
            return dict.fromkeys(self._shard(SINGLE).infos, SINGLE)
        index = self.folder / INDEX
        if not os.path.lexists(index):
            raise AdapterError(f"{self.folder} holds neither {SINGLE} nor {INDEX}", hint=HINT)
        raw = read_small(index, MAX_INDEX, HINT)
        placed = parse(raw, str(index), marks=MAX_MARKS, hint=HINT).get("weight_map")
        if not isinstance(placed, dict) or not all(isinstance(f, str) for f in placed.values()):
            raise AdapterError(f"{index} has no weight_map of names to files", hint=HINT)
        for name in (*placed, *set(placed.values())):
            fault = name_fault(name)
            if fault:
                raise AdapterError(f"{index} names {name[:80]!r}: {fault}", hint=HINT)
        return placed

    def _shard(self, file: str) -> TensorFile:
        if file not in self._shards:
            self._shards[file] = TensorFile(self.folder / file)
        return self._shards[file]

    def _key(self, name: str) -> str | None:
        """The tensor of a module or parameter; a prefix may be there on one side only.

        Raises:
            ParameterError: if several tensors could be it.
        """
        for tail in (f"{name}.weight", name):
            if tail in self._shard_of:
                return tail
            found = [*self._shorter(tail), *self._longer(tail)]
            if len(found) > 1:
                raise ParameterError(
                    f"{name} could be {found[0]} or {found[1]} of {self.folder}", hint=WRONG_MODEL
                )
            if found:
                return found[0]
        return None

    def _shorter(self, tail: str) -> Iterator[str]:
        """Tensors whose name is the end of `tail`, of two pieces or more."""
        for start in range(1, tail.count(".")):
            shorter = tail.split(".", start)[-1]
            if shorter in self._shard_of:
                yield shorter

    def _longer(self, tail: str) -> Iterator[str]:
        """The first two tensors whose name ends with `tail`."""
        ending = f".{tail}"[::-1]
        at = bisect_left(self._backwards, ending)
        for backwards in self._backwards[at : at + 2]:
            if backwards.startswith(ending):
                yield backwards[::-1]

    def check(self, adapter: Adapter, role: str) -> None:
        """Compare names and shapes with an adapter's modules; reads headers only.

        Raises:
            ParameterError: naming the first module whose matrix is missing, has another shape, or
                is another module's too.
            UnsupportedError: if a matrix is stored as codes.
        """
        owners: dict[str, str] = {}
        for name, slot in adapter.slots.items():
            if slot.shape == (0, 0):
                continue
            key, _ = self._find(name, slot, role)
            owner = slot.parameter or name
            first = owners.setdefault(key, owner)
            if first != owner:
                raise ParameterError(
                    f"{key} of the {role} {self.folder} could be {first} or {owner}",
                    hint=WRONG_MODEL,
                )

    def _find(self, name: ModuleName, slot: Slot, role: str = "checkpoint") -> tuple[str, bool]:
        """The key of a module's matrix and whether it is stored transposed."""
        key = self._key(slot.parameter or name)
        if key is None:
            raise ParameterError(
                f"the {role} {self.folder} has no tensor for {name}", hint=self._why_none(name)
            )
        info = self._shard(self._shard_of[key]).infos.get(key)
        if info is None:
            raise AdapterError(f"{self.folder} lacks {key}, which its index names", hint=HINT)
        self._refuse_codes(key, info)
        transposed = self._transposed(key, info.shape, slot)
        if transposed is None:
            raise ParameterError(
                f"{name} changes {_described(slot)}, "
                f"but {key} of the {role} {self.folder} has shape {list(info.shape)}",
                hint=WRONG_MODEL,
            )
        return key, transposed

    def _why_none(self, name: ModuleName) -> str:
        """What to do about a module that has no tensor."""
        tied = _config(self.folder).get("tie_word_embeddings", True)
        if (
            name.endswith("lm_head")
            and tied
            and any("emb" in k or "wte" in k for k in self._shard_of)
        ):
            return "if the head is tied to the embedding, save the checkpoint with the two untied"
        return WRONG_MODEL

    def _refuse_codes(self, key: str, info: TensorInfo) -> None:
        """Refuse a matrix of which the file holds codes: no floats, or floats to be scaled."""
        scale = next((key + tail for tail in SCALES if key + tail in self._shard_of), "")
        if info.dtype in FLOATS and not scale:
            return
        how = f"as {info.dtype}" + (f", to be scaled by {scale}" if scale else "")
        raise UnsupportedError(f"{key} of {self.folder} is stored {how}", hint=UNQUANTISED)

    def _transposed(self, key: str, shape: tuple[int, ...], slot: Slot) -> bool | None:
        """Whether a tensor of this shape holds the module's matrix transposed; None: neither.

        A square one of stacked experts is as the other parameter of its experts tells, which is
        higher than wide if neither is transposed.
        """
        stacked = _stacked(shape, slot)
        if stacked and shape[0] != slot.experts:
            return None
        flat = _flat(shape[1:] if stacked else shape)
        conv1d = slot.transposed and slot.kind == "linear"
        if flat == slot.shape == flat[::-1]:
            return self._wide_sibling(key) if stacked else conv1d
        if flat == slot.shape:
            return False
        return True if flat == slot.shape[::-1] and (conv1d or stacked) else None

    def _wide_sibling(self, key: str) -> bool:
        """Whether the other parameter of stacked experts is wider than high."""
        other = {"down_proj": "gate_up_proj", "gate_up_proj": "down_proj"}
        owner, _, leaf = key.rpartition(".")
        sibling = f"{owner}.{other.get(leaf)}"
        if sibling not in self._shard_of:
            return False
        info = self._shard(self._shard_of[sibling]).infos.get(sibling)
        return info is not None and len(info.shape) == 3 and info.shape[1] < info.shape[2]

    def matrix(self, name: ModuleName, slot: Slot) -> Array:
        """The weight matrix of a module, shape (m, n) as its update has it, float64.

        Raises:
            ParameterError: if there is none of that name and shape.
            UnsupportedError: if it is stored as codes.
        """
        key, transposed = self._find(name, slot)
        file = self._shard(self._shard_of[key])
        whole = file.load(key, slot.expert if _stacked(file.infos[key].shape, slot) else None)
        W: Array = whole.reshape(_flat(whole.shape)).astype(np.float64)
        return W.T if transposed else W

    @property
    def name(self) -> str:
        """The model's name, as its config gives it; else the folder's."""
        fields = _config(self.folder)
        name = fields.get("_name_or_path")
        return name if isinstance(name, str) and name else self.folder.resolve().name

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The two-dimensional weights by module name, with their shapes."""
        shapes = {}
        for key, file in sorted(self._shard_of.items()):
            info = self._shard(file).infos.get(key)
            if info and key.endswith(".weight") and len(info.shape) == 2:
                shapes[key.removesuffix(".weight")] = (info.shape[0], info.shape[1])
        return shapes

    def plain(self, name: str, expected: tuple[int, int] | None = None) -> Array:
        """The weight `name` as it is stored, float64.

        Raises:
            ParameterError: if there is none, or its shape is not the expected one.
        """
        shape = expected or self.matrices().get(name)
        if shape is None:
            raise ParameterError(f"{self.folder} has no matrix {name}", hint="check the name")
        return self.matrix(ModuleName(name), Slot((), "linear", 0, shape, 1.0))


def _stacked(shape: tuple[int, ...], slot: Slot) -> bool:
    return slot.kind == "expert" and len(shape) == 3


def _described(slot: Slot) -> str:
    """What a module changes, for a message."""
    one = f"a matrix of shape {list(slot.shape)}"
    return f"{one}, one of {slot.experts} experts" if slot.kind == "expert" else one


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of a kernel or matrix as (rows, all the rest)."""
    return (shape[0] if shape else 0), int(np.prod(shape[1:]))


def _config(folder: Path) -> dict[str, Any]:
    """The fields of config.json; none if there is no such file."""
    config = folder / "config.json"
    if not os.path.lexists(config):
        return {}
    return parse(read_small(config, MAX_INDEX, HINT), str(config), marks=MAX_MARKS, hint=HINT)


def _refuse_quantised(folder: Path) -> None:
    if _config(folder).get("quantization_config"):
        raise UnsupportedError(
            f"{folder} is quantised: its matrices are codes, not weights", hint=UNQUANTISED
        )


Sources = Mapping[str, Checkpoint]
"""Checkpoints by role, "base" and "aligned"."""


def sources_for(
    adapter: Adapter,
    asker: str,
    needs: frozenset[str],
    *,
    base: Checkpoint | None,
    aligned: Checkpoint | None,
) -> Sources:
    """The checkpoints that are given, held against the adapter's names and shapes.

    Args:
        adapter: Whose modules they are for.
        asker: What needs them, for the message.
        needs: The roles it cannot do without.
        base: Weights of the base model.
        aligned: Weights of the aligned model.

    Raises:
        ParameterError: if one that is needed is not given, or one is of another model.
    """
    given = {"base": base, "aligned": aligned}
    sources = {role: checkpoint for role, checkpoint in given.items() if checkpoint}
    missing = sorted(needs - sources.keys())
    if missing:
        raise ParameterError(
            f"{asker} needs the {' and the '.join(missing)} weights",
            hint="give " + " and ".join(f"--{role} DIR" for role in missing),
        )
    for role, checkpoint in sources.items():
        checkpoint.check(adapter, role)
    return sources
