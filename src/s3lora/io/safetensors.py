"""The safetensors format: tensors read one at a time from a file whose header was checked.

A file is eight bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, and the
tensors' bytes, back to back.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3lora.errors import AdapterError, UnsupportedError
from s3lora.io.regular_file import HINT as HINT
from s3lora.io.regular_file import close_quietly, open_regular, reading, stamp
from s3lora.io.regular_file import read_small as read_small
from s3lora.io.safetensors_header import FLOATS as FLOATS
from s3lora.io.safetensors_header import MAX_TENSORS as MAX_TENSORS
from s3lora.io.safetensors_header import TensorInfo as TensorInfo
from s3lora.io.safetensors_header import name_fault as name_fault
from s3lora.io.safetensors_header import parse_header, read_header

CHUNK = 2**20
"""How much is copied or hashed at a time, in bytes."""


class TensorFile:
    """One safetensors file, opened once: the header is checked here, bytes are read on demand.

    Bytes that are read twice have to be the same twice, and those that are hashed with the whole
    file have to be those that were read before: `sha256` is of what was looked at, even while
    somebody writes to the file.

    Raises:
        AdapterError: if the file is missing, cannot be read, is no regular file, or breaks a rule
            of the format or one of the limits above.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        fd, self.nbytes = open_regular(path)
        self._close = weakref.finalize(self, close_quietly, fd)
        self._fd = fd
        with reading(path):
            self._stamp = stamp(fd)
            header = read_header(fd, self.nbytes, path)
        self._header = hashlib.sha256(len(header).to_bytes(8, "little") + header).digest()
        self.infos, self.metadata = parse_header(header, self.nbytes, path)
        self._start = 8 + len(header)
        self._recent: dict[str, NDArray[Any]] = {}
        self._digests: dict[str, bytes] = {}
        self._sha256 = ""

    def read(self, key: str) -> NDArray[Any]:
        """The tensor `key` in its stored shape and dtype (read-only).

        The last two are remembered, since the experts of a layer share theirs.
        """
        array = self._recent.get(key)
        if array is None:
            info = self.infos[key]
            if info.dtype not in FLOATS:
                raise UnsupportedError(
                    f"{key} is stored as {info.dtype}",
                    hint=f"factors are read from {', '.join(FLOATS)}",
                )
            for older in list(self._recent)[:-1]:  # other threads may read, and remove, too
                self._recent.pop(older, None)
            array = self.load(key)
            self._compare(key, hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest())
            self._recent[key] = array
        return array

    def load(self, key: str, part: int | None = None) -> NDArray[Any]:
        """The tensor `key`, or its `part` along the first axis; not remembered."""
        info = self.infos[key]
        start, shape = info.start, info.shape
        if part is not None:
            start, shape = start + part * (info.nbytes // shape[0]), shape[1:]
        array = np.empty(shape, FLOATS[info.dtype])
        buffer, done = array.reshape(-1).view(np.uint8).data, 0
        with reading(self.path):
            while done < len(buffer):
                count = os.preadv(self._fd, [buffer[done:]], start + done)
                if not count:
                    raise self._changed()
                done += count
        array.flags.writeable = False
        return array

    def chunks(self, key: str) -> Iterator[bytes]:
        """The stored bytes of tensor `key`, a chunk at a time."""
        info, digest = self.infos[key], hashlib.sha256()
        for chunk in self._pread(info.start, info.stop):
            digest.update(chunk)
            yield chunk
        self._compare(key, digest.digest())

    def sha256(self) -> str:
        """SHA-256 of the whole file, as hexadecimal digits; the file is read for it once.

        Raises:
            AdapterError: if the file has changed since it was opened.
        """
        if not self._sha256:
            whole = hashlib.sha256()
            for chunk in self._pread(0, self._start):
                whole.update(chunk)
            if whole.digest() != self._header:
                raise self._changed()
            for key in sorted(self.infos, key=lambda key: self.infos[key].start):
                for chunk in self.chunks(key):
                    whole.update(chunk)
            with reading(self.path):
                if stamp(self._fd) != self._stamp:
                    raise self._changed()
            self._sha256 = whole.hexdigest()
        return self._sha256

    def _compare(self, key: str, digest: bytes) -> None:
        """The bytes of a tensor are those of the last time, or it is the first time."""
        if self._digests.setdefault(key, digest) != digest:
            raise self._changed()

    def _changed(self) -> AdapterError:
        return AdapterError(
            f"{self.path} was changed while it was read", hint="try again when nobody writes to it"
        )

    def _pread(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            with reading(self.path):
                chunk = os.pread(self._fd, min(CHUNK, stop - start), start)
            if not chunk:
                raise self._changed()
            start += len(chunk)
            yield chunk
