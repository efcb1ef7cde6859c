"""NeMo's archives (`.nemo`): whole models and adapters have the same name, the config differs."""

from __future__ import annotations

import re
from tarfile import BLOCKSIZE, HeaderError, TarInfo
from typing import IO, TYPE_CHECKING

from s3lora.errors import AdapterError
from s3lora.io.regular_file import open_regular, reading

if TYPE_CHECKING:
    from pathlib import Path

MOST_MEMBERS = 64
"""How many files of an archive are looked at for its config."""
MAX_CONFIG = 2**20
"""How much of its config is read, in bytes."""

_TUNED = re.compile(
    rb"^\s*(?:peft_scheme|adapter_type):\s*(?!null\b|none\b|~)[\w\"'\[]", re.M | re.I
)
"""In the config of an adapter: the method that it was trained with."""
_ADAPTER_NAME = re.compile(r"lora|adapter|peft", re.I)


def is_nemo_model(path: Path) -> bool:
    """Whether an archive of NeMo's is a whole model: its config names no method of adapters.

    Of an archive that is compressed only the name is looked at. What is not understood is not
    called a model.
    """
    try:
        fd, _ = open_regular(path)
        with open(fd, "rb") as file, reading(path):
            if file.read(2) == b"\x1f\x8b":
                return not _ADAPTER_NAME.search(path.name)
            file.seek(0)
            config = _config(file)
    except AdapterError:
        return False
    return config is not None and not _TUNED.search(config)


def _config(file: IO[bytes]) -> bytes | None:
    """The beginning of the config in an archive; None if there is none among its first files."""
    for _ in range(MOST_MEMBERS):
        try:
            member = TarInfo.frombuf(file.read(BLOCKSIZE), "utf-8", "surrogateescape")
        except HeaderError:
            return None
        if member.name.rpartition("/")[2] == "model_config.yaml":
            return file.read(min(member.size, MAX_CONFIG))
        if member.size < 0:
            return None
        file.seek(-(-member.size // BLOCKSIZE) * BLOCKSIZE, 1)
    return None
