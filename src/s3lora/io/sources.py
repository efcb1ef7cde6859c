"""From a reference, a folder or a file, to an adapter: find its files and open them.

Links are followed, since the hub's cache is made of them; nothing else is: not the base model's
name in the config, not a path in any file, and never the network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from s3lora.adapter import Adapter
from s3lora.errors import AdapterError, UnsupportedError
from s3lora.findings import Finding
from s3lora.io.config_fields import HINT
from s3lora.io.peft import adapter_from
from s3lora.io.peft_config import MAX_CONFIG, parse_config
from s3lora.io.regular_file import read_small
from s3lora.io.safetensors import TensorFile

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
MANIFEST = "s3lora.json"

EXPECTED = frozenset((CONFIG, CARD, MANIFEST, ".gitattributes", ".gitignore"))
"""Files beside the weights that need no remark."""

MAX_SIBLINGS = 1000


def open_adapter(ref: str | os.PathLike[str]) -> Adapter:
    """Open a LoRA adapter: reads its config and the header of its weights, and no more.

    Args:
        ref: A folder as PEFT saves it, or a .safetensors file with its adapter_config.json beside
            it.

    Returns:
        The adapter, with its modules in natural order and the findings about its files.

    Raises:
        AdapterError: if the files are missing, broken or hostile.
        UnsupportedError: if it is a pickle, or an adapter of another kind than LoRA.
    """
    try:
        return _opened(Path(ref), str(ref))
    except OSError as error:  # a path that is too long, a folder that may not be listed, …
        raise AdapterError(
            f"cannot read {ref}: {error.strerror or error}", hint="check the path and its rights"
        ) from error


def _opened(path: Path, ref: str) -> Adapter:
    weights = path if path.is_file() else _weights_in(path)
    if weights.suffix != ".safetensors":
        raise _pickle(weights)
    tensors = TensorFile(weights)
    path = weights.parent / CONFIG
    raw = _config_bytes(path)
    adapter = adapter_from(ref, parse_config(raw, path), tensors, _siblings(weights))
    return replace(adapter, config_digest=hashlib.sha256(raw).hexdigest())


def _config_bytes(path: Path) -> bytes:
    """The config as it stands in the file."""
    if not os.path.lexists(path):
        raise AdapterError(f"{path} is missing, so the scale of the update is unknown", hint=HINT)
    return read_small(path, MAX_CONFIG, HINT)


def _weights_in(folder: Path) -> Path:
    """The weights file of a folder."""
    if not folder.is_dir():
        what = "is neither a folder nor a file" if folder.exists() else "does not exist"
        raise AdapterError(
            f"{folder} {what}",
            hint="give an adapter's folder; an adapter on a hub must be downloaded first",
        )
    weights = folder / WEIGHTS
    if os.path.lexists(weights):
        return weights
    if (folder / "adapters.safetensors").exists():
        raise UnsupportedError(
            f"{folder} is an adapter in mlx-lm's layout",
            hint="only PEFT's layout is read; convert it to a PEFT adapter first",
        )
    for name in ("adapter_model.bin", "adapter_model.pt"):
        if (folder / name).exists():
            raise _pickle(folder / name)
    raise AdapterError(
        f"{folder} holds no {WEIGHTS}", hint="give the folder that PEFT's save_pretrained wrote"
    )


def _pickle(path: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{path} is not a safetensors file, and reading a pickle can run code that is in it",
        hint="convert it to safetensors where running that code does no harm",
    )


def _siblings(weights: Path) -> Iterator[Finding]:
    """A note for each file beside the adapter that was not looked into."""
    text = "this file was not scanned"
    with os.scandir(weights.parent) as entries:
        names = sorted(entry.name for entry in entries)
    others = [name for name in names if name not in EXPECTED and name != weights.name]
    for name in others[:MAX_SIBLINGS]:
        yield Finding("unscanned-sibling", "low", name, text)
    if len(others) > MAX_SIBLINGS:
        more = f"{len(others) - MAX_SIBLINGS} more files were not scanned"
        yield Finding("unscanned-sibling", "low", str(weights.parent), more)
