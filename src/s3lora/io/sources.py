"""From a reference, a folder or a file, to an adapter: find its files and open them.

Links are followed, since the hub's cache is made of them; nothing else is: not the base model's
name in the config, not a path in any file, and never the network.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from s3lora.adapter import Adapter
from s3lora.errors import AdapterError
from s3lora.io.config_fields import HINT
from s3lora.io.layouts import (
    CONFIG,
    SHARD,
    WEIGHTS,
    layout_of,
    refuse_other_file,
    refuse_other_folder,
)
from s3lora.io.peft import adapter_from
from s3lora.io.peft_config import MAX_CONFIG, parse_config
from s3lora.io.places import (
    config_hint,
    expanded,
    refuse_interrupted,
    refuse_outer,
    snapshot_of,
)
from s3lora.io.regular_file import read_small
from s3lora.io.safetensors import TensorFile
from s3lora.io.siblings import CARD, MANIFEST, sibling_findings

__all__ = ["CARD", "CONFIG", "MANIFEST", "WEIGHTS", "open_adapter"]


def open_adapter(ref: str | os.PathLike[str]) -> Adapter:
    """Open a LoRA adapter: reads its config and the header of its weights, and no more.

    Args:
        ref: A folder as PEFT saves it, its adapter_config.json, or a .safetensors file with that
            beside it; of the hub's cache also `models--OWNER--NAME`, for its main revision. `~` is
            the user's own folder.

    Returns:
        The adapter, with its modules in natural order and the findings about its files.

    Raises:
        AdapterError: if the files are missing, broken or hostile.
        UnsupportedError: if it is a pickle, or an adapter in another layout or of another kind
            than LoRA.
    """
    try:
        return _opened(expanded(ref), str(ref))
    except (OSError, RuntimeError, ValueError) as error:  # too long, forbidden, a loop, a NUL, …
        raise AdapterError(
            f"cannot read {ref}: {getattr(error, 'strerror', None) or error}",
            hint="check the path and its rights",
        ) from error


def _opened(path: Path, ref: str) -> Adapter:
    weights = _weights(path)
    tensors = TensorFile(weights)
    config = weights.parent / CONFIG
    configured = os.path.lexists(config)
    layout = layout_of(tensors.infos.keys(), configured=configured)
    if layout:
        raise layout.refusal(weights)
    if not configured:
        raise AdapterError(
            f"{config} is missing, so the scale of the update is unknown",
            hint=config_hint(weights.parent, HINT),
        )
    raw = read_small(config, MAX_CONFIG, HINT)
    if Path(ref) not in (weights, weights.parent):
        ref = str(weights.parent)
    adapter = adapter_from(ref, parse_config(raw, config), tensors, sibling_findings(weights))
    return replace(adapter, config_digest=hashlib.sha256(raw).hexdigest())


def _weights(path: Path) -> Path:
    """The weights file that a folder or file stands for."""
    if path.is_file():
        if path.name == CONFIG or SHARD.fullmatch(path.name):
            return _weights_in(path.parent)
        if path.suffix != ".safetensors":
            refuse_other_file(path)
        return path
    if not path.is_dir():
        what = "is neither a folder nor a file" if path.exists() else "does not exist"
        raise AdapterError(
            f"{path} {what}",
            hint="give an adapter's folder; an adapter on a hub must be downloaded first",
        )
    return _weights_in(snapshot_of(path))


def _weights_in(folder: Path) -> Path:
    """The weights file of a folder."""
    weights = folder / WEIGHTS
    if os.path.lexists(weights):
        return weights
    names = {file.name for file in folder.iterdir()}
    with suppress(AdapterError):  # a broken config says less than what is there instead of weights
        if CONFIG in names:
            parse_config(read_small(folder / CONFIG, MAX_CONFIG, HINT), folder / CONFIG)
    refuse_other_folder(folder, names)
    refuse_interrupted(folder)
    refuse_outer(folder, names)
    return weights
