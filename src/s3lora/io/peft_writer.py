"""Writing an edited PEFT adapter: the tensors that stay, and a config that names just them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from s3lora.adapter import Adapter, Drop, Edit, ModuleName, Slot, Zero
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.io.peft_config import resolve, validated
from s3lora.io.safetensors import CHUNK, Stored, TensorFile, stored, write
from s3lora.io.sources import CONFIG, WEIGHTS

Edits = Mapping[ModuleName, Edit]


def write_adapter(adapter: Adapter, edits: Edits, folder: Path, *, fold_scale: bool) -> None:
    """Write weights and config of an adapter after the edits into a folder.

    Tensors that no edit touches are copied byte for byte, in the order of the source, unless a
    scale is folded into them.

    Args:
        adapter: From `open_adapter`.
        edits: By module; a module that is not in it stays as it is.
        folder: An existing folder.
        fold_scale: Write one scale and one rank that every loader reads alike: see `folded`.

    Raises:
        ParameterError: if the names that stay cannot be told from one that leaves.
        UnsupportedError: if scales are to be folded that cannot be.
    """
    config = edited_config(adapter, edits)
    tensors: Iterable[Stored] = _edited_tensors(adapter, edits)
    if fold_scale:
        config, tensors = folded(adapter, edits, config, tensors)
    with (folder / WEIGHTS).open("wb") as file:
        write(file, tensors, _file(adapter).metadata)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _file(adapter: Adapter) -> TensorFile:
    if not isinstance(adapter.tensors, TensorFile):
        raise UnsupportedError(
            f"{adapter.ref} is not in PEFT's layout", hint="only PEFT adapters can be written"
        )
    return adapter.tensors


def edited_config(adapter: Adapter, edits: Edits) -> dict[str, Any]:
    """The source's config, naming in full what stays; unchanged if nothing is dropped.

    No field is added that the source lacked. A field that selects modules in another way is
    emptied, and a rank or alpha pattern that matches nothing any more is left out.
    """
    config = dict(adapter.config)
    dropped = {name for name, edit in edits.items() if isinstance(edit, Drop)}
    if not dropped:
        return config
    stay = {n: s for n, s in adapter.slots.items() if n not in dropped}
    named = sorted(name for name, slot in stay.items() if slot.kind != "expert")
    for name in dropped:
        clash = next((kept for kept in named if name.endswith(f".{kept}")), None)
        if clash:
            raise ParameterError(
                f"{name} cannot be dropped: PEFT takes the name {clash} for it too",
                hint="use --target zero-fill",
            )
    config["target_modules"] = named
    for field in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if field in config:
            config[field] = None
    targets = [ModuleName(slot.parameter or name) for name, slot in stay.items()]
    rows = resolve(validated(adapter.config), targets).findings
    dead = {row.where for row in rows if row.rule == "dead-pattern"}
    for field in ("rank_pattern", "alpha_pattern"):
        if config.get(field):
            config[field] = {k: v for k, v in config[field].items() if k not in dead}
    return config


def _edited_tensors(adapter: Adapter, edits: Edits) -> Iterator[Stored]:
    """The tensors after the edits, in the order of the source's bytes."""
    file = _file(adapter)
    owners: dict[str, list[ModuleName]] = {}
    for name, slot in adapter.slots.items():
        for key in slot.keys:
            owners.setdefault(key, []).append(name)
    gone = {name for name, edit in edits.items() if isinstance(edit, Drop)}
    for key in sorted(file.infos, key=lambda key: file.infos[key].start):
        names = owners.get(key, [])
        if names and gone.issuperset(names):
            continue
        zeroed = [name for name in names if isinstance(edits.get(name), Zero)]
        if zeroed and key not in adapter.slots[names[0]].keys[:1]:
            yield _zeroed(file, key, [adapter.slots[name] for name in zeroed])
        else:
            yield _copied(file, key, _unwrapped(key, gone))


def _copied(file: TensorFile, key: str, new_key: str) -> Stored:
    info = file.infos[key]
    return Stored(new_key, info.dtype, info.shape, file.chunks(key), info.nbytes)


def _unwrapped(key: str, dropped: set[ModuleName]) -> str:
    """The key of a tensor of the base model after its module is no LoRA layer any more.

    PEFT keeps the wrapped layer as `base_layer`; once the wrapper is gone, so is that name.
    """
    owner, mark, leaf = key.rpartition(".base_layer.")
    if mark and any(owner.endswith(f".{name}") or owner == name for name in dropped):
        return f"{owner}.{leaf}"
    return key


def _zeroed(file: TensorFile, key: str, slots: list[Slot]) -> Stored:
    """The tensor with zeros: all of it, or the columns of some experts of a stack."""
    info = file.infos[key]
    if slots[0].kind != "expert":
        whole, rest = divmod(info.nbytes, CHUNK)
        zeros = (*repeat(bytes(CHUNK), whole), bytes(rest))
        return Stored(key, info.dtype, info.shape, zeros, info.nbytes)
    B = file.read(key).copy()
    for slot in slots:
        B[:, slot.expert :: slot.experts] = 0
    return stored(key, B)


def folded(
    adapter: Adapter, edits: Edits, config: dict[str, Any], tensors: Iterable[Stored]
) -> tuple[dict[str, Any], Iterable[Stored]]:
    """Config and tensors with one scale and one rank for all modules.

    A rank-stabilised scale that is the same for all modules becomes a plain one in the config
    alone: lora_alpha = s·r, no tensor is touched. With rank or alpha patterns every B takes its
    scale in, both factors are padded with zeros to the largest rank, all in float32, and the
    config says r = lora_alpha.

    Raises:
        UnsupportedError: if a module that stays cannot be judged, or experts are stacked.
    """
    stay = {n: s for n, s in adapter.slots.items() if not isinstance(edits.get(n), Drop)}
    for name, slot in stay.items():
        if slot.unscored:
            raise UnsupportedError(
                f"cannot fold the scale of {name}: {slot.unscored}", hint="leave --fold-scale out"
            )
    patterned = any(config.get(field) for field in ("rank_pattern", "alpha_pattern"))
    if not patterned:
        if config.get("use_rslora"):
            rank = config["r"]
            config |= {"use_rslora": False, "lora_alpha": config["lora_alpha"] * math.sqrt(rank)}
        return config, tensors
    if any(slot.kind == "expert" for slot in stay.values()):
        raise UnsupportedError(
            "cannot fold rank or alpha patterns into stacked experts",
            hint="leave --fold-scale out, or take the patterns out when training",
        )
    rank = max(slot.rank for slot in stay.values())
    config |= {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}}
    if "use_rslora" in config:
        config["use_rslora"] = False
    return config, (_folded(adapter, tensor, stay, rank) for tensor in tensors)


def _folded(adapter: Adapter, tensor: Stored, stay: Mapping[ModuleName, Slot], rank: int) -> Stored:
    """One tensor with its module's scale in B, padded to the common rank, in float32."""
    slot = next((s for s in stay.values() if tensor.key in s.keys[:2]), None)
    if slot is None:
        return tensor
    axis = slot.keys.index(tensor.key)  # A has its rank in front, B behind the rows
    raw = np.frombuffer(b"".join(tensor.chunks), _file(adapter).read(tensor.key).dtype)
    array = raw.reshape(tensor.shape).astype(np.float64)
    scaled = array * slot.scaling if axis else array
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, rank - slot.rank)
    return stored(tensor.key, np.pad(scaled, padding).astype(np.float32))
