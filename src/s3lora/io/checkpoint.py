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

from s3lora.adapter import Adapter, ModuleName, Slot, projection_of
from s3lora.errors import AdapterError, ParameterError, UnsupportedError
from s3lora.io.checkpoint_names import WRONG_MODEL, TensorNames, tied
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
UNQUANTISED = "give the checkpoint before it was quantised"

OUTPUTS = ("lm_head", "embed_out", "output")
"""What the output layer is called that may be tied to the embedding."""

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
        self._config = _config(self.folder)
        _refuse_quantised(self.folder, self._config)
        self._shards: dict[str, TensorFile] = {}
        self._shard_of = self._index()
        self._names = TensorNames(self._shard_of.keys(), self._config, self.folder)

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

    def _tied(self, name: ModuleName, slot: Slot) -> tuple[str, ...]:
        """The embedding that an output layer without a tensor of its own is tied to."""
        if projection_of(name) not in OUTPUTS or not tied(self._config):
            return ()
        found = [key for key in self._names.embeddings() if self._info(key).shape == slot.shape]
        return tuple(found) if len(found) == 1 else ()

    def _info(self, key: str) -> TensorInfo:
        info = self._shard(self._shard_of[key]).infos.get(key)
        if info is None:
            raise AdapterError(f"{self.folder} lacks {key}, which its index names", hint=HINT)
        return info

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
            keys, _ = self._find(name, slot, role)
            owner = slot.parameter or name
            first = owners.setdefault(keys[0], owner)
            if first != owner and not self._are_tied(first, owner):
                raise ParameterError(
                    f"{keys[0]} of the {role} {self.folder} could be {first} or {owner}",
                    hint=WRONG_MODEL,
                )

    def _are_tied(self, one: str, other: str) -> bool:
        """Whether two modules share a tensor as embedding and output layer."""
        outputs = {projection_of(name) in OUTPUTS for name in (one, other)}
        return len(outputs) == 2 and tied(self._config)

    def _find(
        self, name: ModuleName, slot: Slot, role: str = "checkpoint"
    ) -> tuple[tuple[str, ...], bool]:
        """The keys of a module's matrix and whether it is stored transposed."""
        expert = slot.expert if slot.kind == "expert" else None
        keys = self._names.of(slot.parameter or name, expert) or self._tied(name, slot)
        if not keys:
            raise ParameterError(
                f"the {role} {self.folder} has no tensor for {name}", hint=self._why_none(name)
            )
        for key in keys:
            self._refuse_codes(key, self._info(key))
        shapes = [self._info(key).shape for key in keys]
        whole = shapes[0]
        if len(keys) > 1:
            whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        transposed = self._transposed(keys[0], whole, slot)
        if transposed is None or len({shape[1:] for shape in shapes}) > 1:
            raise ParameterError(
                f"{name} changes {_described(slot)}, "
                f"but {' and '.join(keys)} of the {role} {self.folder} has shape {list(whole)}",
                hint=WRONG_MODEL,
            )
        return keys, transposed

    def _why_none(self, name: ModuleName) -> str:
        """What to do about a module that has no tensor: what the checkpoint has instead."""
        key, ending = self._names.nearest(name)
        if not key:
            return WRONG_MODEL
        return f"its names are others: {key} has the same end, {ending}; {WRONG_MODEL}"

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
        expert = slot.kind == "expert"  # of a stack, or a matrix of its own
        return True if flat == slot.shape[::-1] and (conv1d or expert) else None

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
        keys, transposed = self._find(name, slot)
        parts = []
        for key in keys:
            file = self._shard(self._shard_of[key])
            whole = file.load(key, slot.expert if _stacked(file.infos[key].shape, slot) else None)
            parts.append(whole.reshape(_flat(whole.shape)).astype(np.float64))
        W: Array = parts[0] if len(parts) == 1 else np.vstack(parts)
        return W.T if transposed else W

    @property
    def name(self) -> str:
        """The model's name, as its config gives it; else the folder's."""
        name = self._config.get("_name_or_path")
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


def _refuse_quantised(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("quantization_config"):
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
