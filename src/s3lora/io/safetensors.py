"""The safetensors format: a strict header check, and tensors read one at a time.

A file is eight bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, and the
tensors' bytes, back to back. The check is stricter than the format's own library, which accepts
duplicate names, control characters and paths in names, and a million empty tensors.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from s3lora.errors import AdapterError, UnsupportedError
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
CHUNK = 2**20
"""How much is copied or hashed at a time, in bytes."""

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

HINT = "download or save the adapter again; if it is someone else's, do not load it"


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


class TensorFile:
    """One safetensors file, opened once: the header is checked here, bytes are read on demand.

    Raises:
        AdapterError: if the file is missing, no regular file, or breaks a rule of the format or
            one of the limits above.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        fd, self.nbytes = open_regular(path)
        self._close = weakref.finalize(self, os.close, fd)
        self._fd = fd
        self.infos, self.metadata = _read_header(fd, self.nbytes, path)
        self._recent: dict[str, NDArray[Any]] = {}
        self._sha256 = ""

    def read(self, key: str) -> NDArray[Any]:
        """The tensor `key` in its stored shape and dtype (read-only).

        The last two are remembered, since the experts of a layer share theirs.
        """
        if key not in self._recent:
            info = self.infos[key]
            if info.dtype not in FLOATS:
                raise UnsupportedError(
                    f"{key} is stored as {info.dtype}",
                    hint=f"factors are read from {', '.join(FLOATS)}",
                )
            while len(self._recent) > 1:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = self.load(key)
        return self._recent[key]

    def load(self, key: str, part: int | None = None) -> NDArray[Any]:
        """The tensor `key`, or its `part` along the first axis; not remembered."""
        info = self.infos[key]
        start, shape = info.start, info.shape
        if part is not None:
            start, shape = start + part * (info.nbytes // shape[0]), shape[1:]
        array = np.empty(shape, FLOATS[info.dtype])
        buffer, done = array.reshape(-1).view(np.uint8).data, 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], start + done)
            if not count:
                raise AdapterError(f"{self.path} became shorter while it was read", hint=HINT)
            done += count
        array.flags.writeable = False
        return array

    def chunks(self, key: str) -> Iterator[bytes]:
        """The stored bytes of tensor `key`, a chunk at a time."""
        info = self.infos[key]
        return self._pread(info.start, info.stop)

    def sha256(self) -> str:
        """SHA-256 of the whole file, as hexadecimal digits; the file is read for it once."""
        if not self._sha256:
            digest = hashlib.sha256()
            for chunk in self._pread(0, self.nbytes):
                digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def _pread(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            chunk = os.pread(self._fd, min(CHUNK, stop - start), start)
            if not chunk:
                raise AdapterError(f"{self.path} became shorter while it was read", hint=HINT)
            start += len(chunk)
            yield chunk


def open_regular(path: Path) -> tuple[int, int]:
    """A file descriptor for reading and the size of a regular file; links are followed.

    Raises:
        AdapterError: if there is no such file, it may not be read, or it is a device or a pipe.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AdapterError(f"cannot open {path}: {reason}", hint="check the path") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise AdapterError(f"{path} is not a regular file", hint="give a folder or a file")
    return fd, status.st_size


def read_small(path: Path, most: int, hint: str) -> bytes:
    """A whole file of at most `most` bytes.

    Raises:
        AdapterError: if it cannot be opened, is no regular file, or is larger.
    """
    fd, size = open_regular(path)
    with open(fd, "rb") as file:
        if size > most:
            raise AdapterError(f"{path} has {size} bytes, more than {most}", hint=hint)
        return file.read(most)


def _read_header(
    fd: int, size: int, path: Path
) -> tuple[Mapping[str, TensorInfo], Mapping[str, str]]:
    if size > MAX_FILE:
        raise AdapterError(f"{path} has {size} bytes, more than {MAX_FILE}", hint=HINT)
    prefix = os.pread(fd, 8, 0)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise AdapterError(f"{path} is cut off: {size} bytes", hint=HINT)
    if length > MAX_HEADER:
        raise AdapterError(
            f"{path} has a header of {length} bytes, more than {MAX_HEADER}", hint=HINT
        )
    header = os.pread(fd, length, 8)
    if header.count(b"data_offsets") > MAX_TENSORS:
        raise AdapterError(f"{path} lists more than {MAX_TENSORS} tensors", hint=HINT)
    parsed = parse(header, f"the header of {path}", marks=16 * MAX_TENSORS, hint=HINT)
    if len(parsed) > MAX_TENSORS + 1:  # the names in a header may be written with escapes
        raise AdapterError(f"{path} lists more than {MAX_TENSORS} tensors", hint=HINT)
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        raise AdapterError(f"the metadata of {path} is not text by name", hint=HINT)
    infos = {}
    for name, entry in parsed.items():
        fault = name_fault(name) or _entry_fault(entry)
        if fault:
            raise AdapterError(f"{path}, tensor {name[:80]!r}: {fault}", hint=HINT)
        start, stop = entry["data_offsets"]
        offset = 8 + length
        infos[name] = TensorInfo(
            entry["dtype"], tuple(entry["shape"]), offset + start, offset + stop
        )
    _check_layout(infos, 8 + length, size, path)
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
    if start != size:
        what = "is cut off" if start > size else "holds bytes that belong to no tensor"
        raise AdapterError(f"{path} {what}: {size} bytes, {start} expected", hint=HINT)
