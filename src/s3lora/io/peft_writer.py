"""Writing an edited PEFT adapter: the tensors that stay, and a config that names just them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s3lora.adapter import Adapter, Drop, Edit, ModuleName, Replace, Slot, Zero
from s3lora.errors import ParameterError, UnsupportedError
from s3lora.io.patterns import endings
from s3lora.io.peft import PREFIX
from s3lora.io.peft_config import validated
from s3lora.io.peft_folding import folded, folded_tensors, patterned
from s3lora.io.peft_keys import OUT_PROJ
from s3lora.io.peft_targets import TIED, resolve
from s3lora.io.safetensors import CHUNK, TensorFile
from s3lora.io.safetensors_writer import Stored, stored, write
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
        fold_scale: Write one scale and one rank that every loader reads alike: see
            `folded_config`.

    Raises:
        ParameterError: if the names that stay cannot be told from one that leaves.
        UnsupportedError: if scales are to be folded that cannot be.
    """
    config = edited_config(adapter, edits)
    tensors = _edited_tensors(adapter, edits)
    if fold_scale:
        differing = patterned(config)
        config = folded_config(adapter, edits, config)
        if differing:
            tensors = folded_tensors(_staying(adapter, edits), tensors, config["r"])
    with (folder / WEIGHTS).open("wb") as file:
        write(file, tensors, _file(adapter).metadata)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _file(adapter: Adapter) -> TensorFile:
    if not isinstance(adapter.tensors, TensorFile):
        raise UnsupportedError(
            f"{adapter.ref} is not in PEFT's layout", hint="only PEFT adapters can be written"
        )
    return adapter.tensors


def _staying(adapter: Adapter, edits: Edits) -> dict[ModuleName, Slot]:
    """The slots of what stays, as they will be."""
    return {
        name: _edited_slot(slot, edits.get(name), rslora=bool(adapter.config.get("use_rslora")))
        for name, slot in adapter.slots.items()
        if not isinstance(edits.get(name), Drop)
    }


def _edited_slot(slot: Slot, edit: Edit | None, *, rslora: bool) -> Slot:
    """A slot with the rank that its edit gives it; alpha stays, so the scaling follows the rank."""
    if not isinstance(edit, Replace):
        return slot
    return replace(
        slot, rank=len(edit.A), scaling=slot.scaling * _rescaled(slot, edit, rslora=rslora)
    )


def _rescaled(slot: Slot, edit: Replace, *, rslora: bool) -> float:
    """What the scaling of a module is multiplied by when its rank becomes the edit's."""
    share = slot.rank / len(edit.A)
    return math.sqrt(share) if rslora else share


def edited_config(adapter: Adapter, edits: Edits) -> dict[str, Any]:
    """The source's config, naming in full what stays; unchanged if nothing is dropped.

    No field is added that the source lacked. A field that selects modules in another way is
    emptied, and a rank or alpha pattern that matches nothing any more is left out. Layers that
    share a weight are not tied any more if one of them is edited.

    Raises:
        ParameterError: if the names that stay cannot be told from one that leaves.
        UnsupportedError: if one of two modules that share a rank would have another.
    """
    config = dict(adapter.config)
    stay = _staying(adapter, edits)
    changed = {n: s.rank for n, s in stay.items() if s.rank != adapter.slots[n].rank}
    _refuse_half(adapter, changed)
    if changed:
        config["rank_pattern"] = changed | {
            key: rank
            for key, rank in (config.get("rank_pattern") or {}).items()
            if key not in changed
        }  # the first match wins
    untied = any(name.rpartition(".")[2] in TIED for name in edits) and _ties_targets(config)
    if untied:
        config["ensure_weight_tying"] = False  # or PEFT gives one of the two the other's update
    if len(stay) == len(adapter.slots) and not untied:
        return config
    named = sorted({_target(n, slot) for n, slot in stay.items() if not slot.parameter})
    gone = {_target(name, adapter.slots[name]) for name in adapter.slots.keys() - stay.keys()}
    _refuse_ambiguous(gone, set(named))
    config["target_modules"] = named
    for field in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if field in config:
            config[field] = None
    targets = [ModuleName(slot.parameter or _target(name, slot)) for name, slot in stay.items()]
    dead = resolve(validated(config), targets).dead
    for field in ("rank_pattern", "alpha_pattern"):
        if config.get(field):
            config[field] = {k: v for k, v in config[field].items() if k not in dead}
    return config


def _ties_targets(config: Mapping[str, Any]) -> bool:
    """Whether PEFT ties the updates of embedding and output layer, not what is saved of them."""
    saved = validated(config).saved
    whole = any(name.rpartition(".")[2] in TIED for name in saved)
    return bool(config.get("ensure_weight_tying")) and not whole


def _refuse_half(adapter: Adapter, changed: Iterable[ModuleName]) -> None:
    """PEFT has one rank for all modules of a target: both projections of an attention."""
    shared = {slot.target for slot in adapter.slots.values() if slot.target}
    for name in changed:
        if _target(name, adapter.slots[name]) in shared:
            raise UnsupportedError(
                f"{name} cannot be given another rank: PEFT has one for the whole attention",
                hint="use --edit drop or zero, or choose other modules",
            )


def _target(name: ModuleName, slot: Slot) -> ModuleName:
    """What `target_modules` calls a module."""
    return ModuleName(slot.target) if slot.target else name


def _refuse_ambiguous(dropped: Iterable[ModuleName], named: set[ModuleName]) -> None:
    """PEFT takes a target for every module whose name ends in it, after a dot."""
    for name in sorted(dropped):
        rest = name.partition(".")[2]
        while rest:
            if rest in named:
                raise ParameterError(
                    f"{name} cannot be dropped: PEFT takes the name {rest} for it too",
                    hint="use --target zero-fill",
                )
            rest = rest.partition(".")[2]


def _edited_tensors(adapter: Adapter, edits: Edits) -> Iterator[Stored]:
    """The tensors after the edits, in the order of the source's bytes."""
    file = _file(adapter)
    owners: dict[str, list[ModuleName]] = {}
    for name, slot in adapter.slots.items():
        for key in slot.keys:
            owners.setdefault(key, []).append(name)
    gone = {name for name, edit in edits.items() if isinstance(edit, Drop)}
    named = frozenset(edited_config(adapter, edits)["target_modules"]) if gone else None
    for key in sorted(file.infos, key=lambda key: file.infos[key].start):
        names = owners.get(key, [])
        if names and gone.issuperset(names):
            continue
        edit = edits.get(names[0]) if names else None
        if isinstance(edit, Replace):
            yield _replaced(adapter, names[0], edit, key)
            continue
        zeroed = [adapter.slots[name] for name in names if isinstance(edits.get(name), Zero)]
        if zeroed and key == zeroed[0].keys[0]:  # A stays, but 0·NaN would be NaN
            zeroed = [slot for slot in zeroed if not np.isfinite(_part(file, key, slot)).all()]
        if zeroed:
            yield _zeroed(file, key, zeroed)
        else:
            yield _copied(file, key, _unwrapped(key, named) if not names else key)


def _replaced(adapter: Adapter, name: ModuleName, edit: Replace, key: str) -> Stored:
    """One factor of an edit in the layout of the tensor that it replaces, in float32.

    The scaling of the module changes with its rank, and B makes up for it.
    """
    slot = adapter.slots[name]
    A = edit.A
    B = edit.B / _rescaled(slot, edit, rslora=bool(adapter.config.get("use_rslora")))
    if slot.kind == "embedding":
        A, B = B.T, A.T
    factor, shape = (A, B)[slot.keys.index(key)], _file(adapter).infos[key].shape
    if slot.kind == "convolution":
        rows = len(factor)
        factor = factor.reshape(rows, *(shape[1:] if factor is A else (-1, *shape[2:])))
    return stored(key, factor.astype(np.float32))


def _copied(file: TensorFile, key: str, new_key: str) -> Stored:
    info = file.infos[key]
    return Stored(new_key, info.dtype, info.shape, file.chunks(key), info.nbytes)


def _unwrapped(key: str, named: Collection[str] | None) -> str:
    """The key of a tensor of the base model where its module is no LoRA layer any more.

    PEFT keeps the wrapped layer as `base_layer`; where the wrapper is gone, so is that name. That
    of trained token rows is there whatever `target_modules` says.

    Args:
        key: Of a tensor that is no module's.
        named: All that `target_modules` names, if it was written anew.
    """
    owner, mark, leaf = key.rpartition(".base_layer.")
    if not mark or named is None or owner.endswith(".token_adapter"):
        return key
    attention = owner.removesuffix(OUT_PROJ)
    if not _named(attention, named):
        return f"{attention}{'.out_proj' if attention != owner else ''}.{leaf}"
    return key


def _named(path: str, named: Collection[str]) -> bool:
    """Whether PEFT takes one of the names for a module: it is this name, or ends in it."""
    return any(ending in named for ending in endings(path.removeprefix(PREFIX)))


def _zeroed(file: TensorFile, key: str, slots: list[Slot]) -> Stored:
    """The tensor with zeros: all of it, or what some experts of a stack have of it."""
    info = file.infos[key]
    if slots[0].kind != "expert":
        whole, rest = divmod(info.nbytes, CHUNK)
        zeros = (*repeat(bytes(CHUNK), whole), bytes(rest))
        return Stored(key, info.dtype, info.shape, zeros, info.nbytes)

    def chunks() -> Iterator[bytes]:
        array = file.read(key).copy()
        for slot in slots:
            array[_place(key, slot)] = 0
        yield array.tobytes()

    return Stored(key, info.dtype, info.shape, chunks(), info.nbytes)


def _part(file: TensorFile, key: str, slot: Slot) -> NDArray[Any]:
    """What a module has of a tensor: all of it, or some rows of A or columns of B of a stack."""
    return file.read(key)[_place(key, slot)]


def _place(key: str, slot: Slot) -> tuple[slice, ...]:
    """Where in a tensor of a stack of experts one of them is; see `s3lora.adapter.arranged`."""
    if slot.kind != "expert":
        return ()
    if key == slot.keys[0]:
        return (slice(slot.expert * slot.rank, (slot.expert + 1) * slot.rank),)
    return (slice(None), slice(slot.expert, None, slot.experts))


def folded_config(adapter: Adapter, edits: Edits, config: dict[str, Any]) -> dict[str, Any]:
    """The config with one scale and one rank for all modules; see `s3lora.io.peft_folding.folded`.

    Args:
        adapter: From `open_adapter`.
        edits: By module.
        config: From `edited_config`.

    Raises:
        UnsupportedError: if a module that stays cannot be judged, or experts are stacked.
    """
    return folded(_staying(adapter, edits), config)
