"""The header of a safetensors file, checked more strictly than by the format's own library.

That one accepts duplicate names, control characters and paths in names, and a million empty
tensors.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from s3lora.errors import AdapterError
from s3lora.io.regular_file import HINT, refuse_stand_in
from s3lora.io.strict_json import parse

MAX_HEADER = 16 * 2**20
"""Largest header read, in bytes: one of 50,000 expert modules has 14 MB."""
MAX_FILE = 2**37
"""Largest file read, in bytes: ten times an adapter of 70B parameters at rank 256 in float32."""
MAX_TENSORS = 100_000
MAX_NAME = 512
MAX_PARTS = 24
"""Most dots and numbers in a name; PEFT's names of experts have 16."""
MAX_DIMENSIONS = 8
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""The dtypes a factor may be stored in."""

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits per entry of every dtype the format knows."""

ENTRY = frozenset(("dtype", "shape", "data_offsets"))
"""What a header says of a tensor."""

_PARTS = re.compile(r"\.|\d+")

CUT_OFF = "the download or the save was interrupted: download or save it again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header describes it."""

    dtype: str
    """The format's name of the dtype, such as BF16."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    stop: int
    """One past the last byte."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.stop - self.start


def read_header(fd: int, size: int, path: Path) -> bytes:
    """The bytes of the header, of a length that is allowed."""
    if size > MAX_FILE:
        raise AdapterError(f"{path} has {size} bytes, more than {MAX_FILE}", hint=HINT)
    prefix = os.pread(fd, 8, 0)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8 or length > MAX_HEADER:
        refuse_stand_in(path, os.pread(fd, 64, 0))
    if len(prefix) < 8 or not length:
        raise AdapterError(f"{path} is cut off: {size} bytes, without a header", hint=CUT_OFF)
    if length > size - 8:
        raise AdapterError(
            f"{path} is cut off: {size} bytes, and its header should end at {8 + length}",
            hint=CUT_OFF if length <= MAX_HEADER else HINT,
        )
    if length > MAX_HEADER:
        raise AdapterError(
            f"{path} has a header of {length} bytes, more than {MAX_HEADER}", hint=HINT
        )
    header = bytearray()
    while len(header) < length:
        piece = os.pread(fd, length - len(header), 8 + len(header))
        if not piece:
            raise AdapterError(f"{path} is cut off: its header was not all read", hint=CUT_OFF)
        header += piece
    return bytes(header)


def parse_header(
    header: bytes, size: int, path: Path
) -> tuple[Mapping[str, TensorInfo], Mapping[str, str]]:
    """The tensors and the metadata that a header lists, checked."""
    if header.count(b"data_offsets") > MAX_TENSORS:
        raise AdapterError(f"{path} lists more than {MAX_TENSORS} tensors", hint=HINT)
    if header.startswith(codecs.BOM_UTF8):  # read in a config, but not by the format's library
        raise AdapterError(f"the header of {path} begins with a byte order mark", hint=HINT)
    parsed = parse(header, f"the header of {path}", marks=16 * MAX_TENSORS, hint=HINT)
    if len(parsed) > MAX_TENSORS + 1:  # the names in a header may be written with escapes
        raise AdapterError(f"{path} lists more than {MAX_TENSORS} tensors", hint=HINT)
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        raise AdapterError(f"the metadata of {path} is not text by name", hint=HINT)
    try:
        "".join((*metadata, *metadata.values())).encode()
    except UnicodeEncodeError as error:
        raise AdapterError(
            f"the metadata of {path} holds half a character: it is no Unicode text", hint=HINT
        ) from error
    infos = {}
    for name, entry in parsed.items():
        fault = name_fault(name) or _entry_fault(entry)
        if fault:
            raise AdapterError(f"{path}, tensor {name[:80]!r}: {fault}", hint=HINT)
        start, stop = entry["data_offsets"]
        offset = 8 + len(header)
        infos[name] = TensorInfo(
            entry["dtype"], tuple(entry["shape"]), offset + start, offset + stop
        )
    _check_layout(infos, 8 + len(header), size, path)
    return infos, metadata


def name_fault(name: str) -> str:
    """What is wrong with the name of a tensor or module; empty if nothing is."""
    if not name:
        return "the name is empty"
    if len(name) > MAX_NAME:
        return f"the name is {len(name)} characters long, more than {MAX_NAME}"
    if not name.isprintable() or " " in name:
        return "the name holds control characters or spaces"
    if "/" in name or "\\" in name or ".." in name:
        return "the name looks like a path"
    if len(_PARTS.findall(name)) > MAX_PARTS:
        return f"the name has more than {MAX_PARTS} dots and numbers"
    return ""


def _entry_fault(entry: object) -> str:
    """What is wrong with one entry of the header; empty if nothing is."""
    if not isinstance(entry, dict) or entry.keys() != ENTRY:
        return "an entry has dtype, shape and data_offsets, and nothing else"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        return f"unknown dtype {str(dtype)[:40]!r}"
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        return f"a shape is a list of at most {MAX_DIMENSIONS} whole numbers"
    if not _naturals(offsets) or len(offsets) != 2:
        return "data_offsets are two whole numbers"
    bits = BITS[dtype]
    for length in shape:
        bits *= length
    if bits != 8 * (offsets[1] - offsets[0]):
        return f"{dtype} of shape {shape} does not take {offsets[1] - offsets[0]} bytes"
    return ""


def _naturals(value: object) -> bool:
    """Whether a value is a list of whole numbers; written to be fast."""
    if not isinstance(value, list):
        return False
    for item in value:  # noqa: SIM110
        if type(item) is not int or not 0 <= item < 2**63:
            return False
    return True


def _check_layout(infos: Mapping[str, TensorInfo], start: int, size: int, path: Path) -> None:
    """The tensors' bytes lie back to back and fill the file: no hole, no overlap, no rest."""
    for name, info in sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != start:
            raise AdapterError(
                f"{path}, tensor {name!r}: its bytes leave a hole or overlap another's", hint=HINT
            )
        start = info.stop
    if start > size:
        raise AdapterError(f"{path} is cut off: {size} bytes of {start}", hint=CUT_OFF)
    if start < size:
        raise AdapterError(
            f"{path} holds bytes that belong to no tensor: {size} bytes, {start} expected",
            hint=HINT,
        )
