"""The weights of a model, one matrix at a time: a Hugging Face checkpoint folder in safetensors.

A model is never loaded. Tensors are matched to modules by name, and their shapes are checked from
the headers before anything is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s3lora.adapter import Adapter, ModuleName, Slot
from s3lora.errors import AdapterError, ParameterError, UnsupportedError
from s3lora.io.safetensors import FLOATS, TensorFile, name_fault, read_small
from s3lora.io.strict_json import parse
from s3lora.linalg import Array

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX = 64 * 2**20
"""Largest index read, in bytes."""

HINT = "give the folder of a Hugging Face checkpoint in safetensors"


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

    def _index(self) -> Mapping[str, str]:
        """The file that each tensor is in."""
        if (self.folder / SINGLE).exists():
            return dict.fromkeys(self._shard(SINGLE).infos, SINGLE)
        index = self.folder / INDEX
        if not index.exists():
            raise AdapterError(f"{self.folder} holds neither {SINGLE} nor {INDEX}", hint=HINT)
        raw = read_small(index, MAX_INDEX, HINT)
        placed = parse(raw, str(index), marks=4_000_000, hint=HINT).get("weight_map")
        if not isinstance(placed, dict) or not all(isinstance(f, str) for f in placed.values()):
            raise AdapterError(f"{index} has no weight_map of names to files", hint=HINT)
        for file in set(placed.values()):
            if name_fault(file):
                raise AdapterError(f"{index} names the file {file[:80]!r}", hint=HINT)
        return placed

    def _shard(self, file: str) -> TensorFile:
        if file not in self._shards:
            self._shards[file] = TensorFile(self.folder / file)
        return self._shards[file]

    def _key(self, name: str) -> str | None:
        """The tensor of a module or parameter; a prefix may be there on one side only."""
        for tail in (f"{name}.weight", name):
            for start in range(tail.count(".")):
                shorter = tail.split(".", start)[-1]
                if shorter in self._shard_of:
                    return shorter
            longer = [key for key in self._shard_of if key.endswith(f".{tail}")]
            if len(longer) == 1:
                return longer[0]
        return None

    def check(self, adapter: Adapter, role: str) -> None:
        """Compare names and shapes with an adapter's modules; reads headers only.

        Raises:
            ParameterError: naming the first module whose matrix is missing or has another shape.
        """
        for name, slot in adapter.slots.items():
            if slot.shape != (0, 0):
                self._find(name, slot, role)

    def _find(self, name: ModuleName, slot: Slot, role: str = "checkpoint") -> tuple[str, bool]:
        """The key of a module's matrix and whether it is stored transposed."""
        key = self._key(slot.parameter or name)
        if key is None:
            raise ParameterError(
                f"the {role} {self.folder} has no tensor for {name}",
                hint="is it the model that the adapter was trained on?",
            )
        info = self._shard(self._shard_of[key]).infos.get(key)
        if info is None:
            raise AdapterError(f"{self.folder} lacks {key}, which its index names", hint=HINT)
        shape = info.shape
        flat = _flat(shape[1:] if slot.kind == "expert" and len(shape) == 3 else shape)
        if flat == slot.shape and not (slot.transposed and flat[0] == flat[1]):
            return key, False
        if flat == slot.shape[::-1] and (slot.transposed or slot.kind == "expert"):
            return key, True
        raise ParameterError(
            f"{name} changes a matrix of shape {list(slot.shape)}, "
            f"but {key} of the {role} {self.folder} has shape {list(shape)}",
            hint="is it the model that the adapter was trained on?",
        )

    def matrix(self, name: ModuleName, slot: Slot) -> Array:
        """The weight matrix of a module, shape (m, n) as its update has it, float64.

        Raises:
            ParameterError: if there is none of that name and shape.
            UnsupportedError: if it is stored in a type that is not floating.
        """
        key, transposed = self._find(name, slot)
        file = self._shard(self._shard_of[key])
        if file.infos[key].dtype not in FLOATS:
            raise UnsupportedError(
                f"{key} of {self.folder} is stored as {file.infos[key].dtype}",
                hint="give the checkpoint before it was quantised",
            )
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
        slot = Slot((), "linear", 0, expected or self.matrices()[name], 1.0)
        return self.matrix(ModuleName(name), slot)


def _stacked(shape: tuple[int, ...], slot: Slot) -> bool:
    return slot.kind == "expert" and len(shape) == 3


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape of a kernel or matrix as (rows, all the rest)."""
    return (shape[0] if shape else 0), int(np.prod(shape[1:]))


def _config(folder: Path) -> dict[str, Any]:
    """The fields of config.json; none if there is no such file."""
    config = folder / "config.json"
    if not config.exists():
        return {}
    return parse(read_small(config, MAX_INDEX, HINT), str(config), marks=1_000_000, hint=HINT)


def _refuse_quantised(folder: Path) -> None:
    if _config(folder).get("quantization_config"):
        raise UnsupportedError(
            f"{folder} is quantised: its matrices are codes, not weights",
            hint="give the checkpoint before it was quantised",
        )
