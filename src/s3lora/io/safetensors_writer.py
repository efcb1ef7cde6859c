"""Writing a safetensors file a chunk at a time, so that no file has to fit in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s3lora.io.safetensors import FLOATS


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor to be written: its bytes come when they are asked for."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[bytes]
    nbytes: int


def stored(key: str, array: NDArray[Any]) -> Stored:
    """An array in memory as a tensor to be written; its dtype must be one of `FLOATS`."""
    dtype = next(name for name, known in FLOATS.items() if known == array.dtype)
    raw = np.ascontiguousarray(array).tobytes()
    return Stored(key, dtype, array.shape, (raw,), len(raw))


def write(file: BinaryIO, tensors: Iterable[Stored], metadata: Mapping[str, str]) -> None:
    """Write the tensors in the order given, a chunk at a time; the header is padded to 8 bytes."""
    tensors = tuple(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for tensor in tensors:
        header[tensor.key] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (start, start + tensor.nbytes),
        }
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        file.writelines(tensor.chunks)
