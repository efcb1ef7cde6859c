"""One scale and one rank for all modules, for loaders that read only these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from s3lora.adapter import ModuleName, Slot
from s3lora.errors import UnsupportedError
from s3lora.io.peft_config import validated
from s3lora.io.safetensors import FLOATS
from s3lora.io.safetensors_writer import Stored


def patterned(config: Mapping[str, Any]) -> bool:
    """Whether ranks or scales differ between modules."""
    return any(config.get(field) for field in ("rank_pattern", "alpha_pattern"))


def folded(stay: Mapping[ModuleName, Slot], config: dict[str, Any]) -> dict[str, Any]:
    """The config with one scale and one rank for all modules.

    A rank-stabilised scale that is the same for all modules becomes a plain one in the config
    alone: lora_alpha = s·r, no tensor is touched. With rank or alpha patterns every B takes its
    scale in, both factors are padded with zeros to the largest rank, all in float32, and the
    config says r = lora_alpha.

    Args:
        stay: The slots of what stays, as they will be.
        config: The config that names them.

    Raises:
        UnsupportedError: if a module that stays cannot be judged, or experts are stacked.
    """
    for name, slot in stay.items():
        if slot.unscored:
            raise UnsupportedError(
                f"cannot fold the scale of {name}: {slot.unscored}", hint="leave --fold-scale out"
            )
    plain: dict[str, Any] = {"use_rslora": False} if "use_rslora" in config else {}
    if not patterned(config):
        if config.get("use_rslora"):
            source = validated(config)
            plain["lora_alpha"] = _whole(source.alpha * math.sqrt(source.r))
        return config | plain
    if any(slot.kind == "expert" for slot in stay.values()):
        raise UnsupportedError(
            "cannot fold rank or alpha patterns into stacked experts",
            hint="leave --fold-scale out, or take the patterns out when training",
        )
    rank = max(slot.rank for slot in stay.values())
    patterns: dict[str, Any] = {
        field: {} for field in ("rank_pattern", "alpha_pattern") if field in config
    }
    return config | plain | patterns | {"r": rank, "lora_alpha": rank}


def _whole(alpha: float) -> int | float:
    """A scale as a config has it: a whole number where it is one."""
    if not math.isfinite(alpha):
        raise UnsupportedError(
            "the folded lora_alpha does not fit float64", hint="leave --fold-scale out"
        )
    return int(alpha) if alpha.is_integer() and abs(alpha) < 2**53 else alpha


def folded_tensors(
    stay: Mapping[ModuleName, Slot], tensors: Iterable[Stored], rank: int
) -> Iterator[Stored]:
    """The tensors with every module's scale in B, padded to the common rank, in float32.

    Raises:
        UnsupportedError: as they are read, if one does not fit float32 with its scale in it.
    """
    owners = {key: slot for slot in stay.values() for key in slot.keys[:2]}
    for tensor in tensors:
        slot = owners.get(tensor.key)
        yield _folded(tensor, slot, rank) if slot else tensor


def _folded(tensor: Stored, slot: Slot, rank: int) -> Stored:
    axis = slot.keys.index(tensor.key)  # A has its rank in front, B behind the rows
    shape = list(tensor.shape)
    shape[axis] = rank
    padding = [(0, 0)] * len(shape)
    padding[axis] = (0, rank - slot.rank)

    def chunks() -> Iterator[bytes]:
        raw = np.frombuffer(b"".join(tensor.chunks), FLOATS[tensor.dtype])
        array = raw.reshape(tensor.shape).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            small = (array * (slot.scaling if axis else 1.0)).astype(np.float32)
        if (~np.isfinite(small) & np.isfinite(array)).any():
            raise UnsupportedError(
                f"{tensor.key} does not fit float32 with its scale in it",
                hint="leave --fold-scale out",
            )
        yield np.pad(small, padding).tobytes()

    nbytes = 4 * math.prod(shape)
    return replace(tensor, dtype="F32", shape=tuple(shape), chunks=chunks(), nbytes=nbytes)
