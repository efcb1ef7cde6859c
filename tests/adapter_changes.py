"""What happens to adapters between PEFT and their users: one change to a saved one, at random."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from adapters import CONFIG, WEIGHTS
from architectures import ARCHITECTURES, Architecture, adaptable, fresh
from lora_configs import Random, chance, exclusions, expression, one, patterns, shortened, some

Array = NDArray[Any]
PREFIX = "base_model.model."


@dataclass
class Opened:
    """A saved adapter, to be changed in place."""

    name: str
    """Of its architecture."""
    tensors: dict[str, Array]
    config: dict[str, Any]

    @property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.name]

    @property
    def factors(self) -> list[str]:
        return sorted(key for key in self.tensors if ".lora_" in key)

    @property
    def others(self) -> list[str]:
        return sorted(key for key in self.tensors if ".lora_" not in key)

    @property
    def owners(self) -> list[str]:
        """The paths of the modules that have factors, with the prefix."""
        return sorted({key.rpartition(".lora_")[0] for key in self.factors})

    def rename(self, keys: list[str], change: Callable[[str], str]) -> None:
        self.tensors = {
            change(key) if key in keys else key: tensor for key, tensor in self.tensors.items()
        }

    def drop(self, keys: list[str]) -> None:
        for key in keys:
            del self.tensors[key]


Change = Callable[[Opened, Random], str | None]
"""Changes an adapter and says how; None if there is nothing to change."""


def _all_or_some(random: Random, keys: list[str]) -> list[str]:
    return keys if chance(random, 0.7) else some(random, keys, len(keys))


def wrapped(adapter: Opened, random: Random) -> str:
    """Names of wrappers that trainers leave inside keys."""
    wrapper = str(
        one(random, ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "_orig_mod"))
    )
    place = int(random.integers(0, 4))

    def change(key: str) -> str:
        pieces = key.removeprefix(PREFIX).split(".")
        at = min(place, max(len(pieces) - 3, 0))
        return PREFIX + ".".join([*pieces[:at], wrapper, *pieces[at:]])

    adapter.rename(_all_or_some(random, adapter.factors), change)
    return f"{wrapper} at piece {place}"


def prefixed(adapter: Opened, random: Random) -> str | None:
    """Another prefix than PEFT's."""
    prefix = str(one(random, ("", PREFIX * 2, "base_model.", "model.", f"module.{PREFIX}")))
    keys = _all_or_some(random, sorted(adapter.tensors))
    if prefix == "base_model." and any(key.startswith(f"{PREFIX}model.") for key in keys):
        return None  # that is an adapter of a model without a head, as PEFT saves it
    adapter.rename(keys, lambda key: prefix + key.removeprefix(PREFIX))
    return f"prefix {prefix!r}"


def labelled(adapter: Opened, random: Random) -> str:
    """The name of an adapter inside keys."""
    label = str(one(random, ("default", "other", "weight")))

    def change(key: str) -> str:
        path, mark, part = key.rpartition(".lora_")
        head, dot, leaf = part.partition(".")
        return f"{path}{mark}{head}.{label}{dot}{leaf}"

    adapter.rename(_all_or_some(random, adapter.factors), change)
    return f"adapter name {label!r}"


def without_factor(adapter: Opened, random: Random) -> str:
    key = one(random, adapter.factors)
    adapter.drop([key])
    return f"without {key}"


def without_module(adapter: Opened, random: Random) -> str | None:
    owners = adapter.owners
    if len(owners) == 1:
        return None
    gone = some(random, owners, len(owners) - 1)
    adapter.drop([key for key in adapter.factors if key.rpartition(".lora_")[0] in gone])
    return f"without {gone}"


def without_payload(adapter: Opened, random: Random) -> str | None:
    if not adapter.others:
        return None
    gone = some(random, adapter.others, len(adapter.others))
    adapter.drop(gone)
    return f"without {gone}"


def with_module(adapter: Opened, random: Random) -> str | None:
    """A module more, with factors that fit it."""
    model = dict(fresh(adapter.name).named_modules())
    carried = {owner.removeprefix(PREFIX) for owner in adapter.owners}
    names = [
        name
        for name in adaptable(adapter.name)
        if name not in carried and type(model[name]).__name__ in ("Linear", "Conv1D")
    ]
    if not names:
        return None
    name = str(one(random, names))
    m, n = model[name].weight.shape
    if type(model[name]).__name__ == "Conv1D":
        m, n = n, m
    r = adapter.config["r"]
    for part, shape in (("A", (r, n)), ("B", (m, r))):
        key = f"{PREFIX}{name}.lora_{part}.weight"
        adapter.tensors[key] = random.standard_normal(shape).astype(np.float32)
    return f"with {name}"


def with_payload(adapter: Opened, random: Random) -> str:
    """A tensor of the base model, under one of the names that PEFT would load it by."""
    model = fresh(adapter.name)
    adapted = {owner.removeprefix(PREFIX) for owner in adapter.owners}
    key = str(one(random, sorted(model.state_dict())))
    owner, _, leaf = key.rpartition(".")
    value = random.standard_normal(tuple(model.state_dict()[key].shape)).astype(np.float32)
    if owner in adapted or chance(random, 0.1):
        key = f"{owner}.base_layer.{leaf}"
    adapter.tensors[PREFIX + key] = value
    return f"with {key}"


def twice(adapter: Opened, random: Random) -> str:
    """A factor that is there under two spellings of its key."""
    key = one(random, adapter.factors)
    head, _, leaf = key.rpartition(".")
    other = str(one(random, (f"{head}.default.{leaf}", key.removeprefix(PREFIX), PREFIX + key)))
    adapter.tensors[other] = adapter.tensors[key] + np.float32(1)
    return f"{key} also as {other}"


def retargeted(adapter: Opened, random: Random) -> str:
    """Other targets than the ones that it was trained with."""
    config, now = adapter.config, adapter.config.get("target_modules")
    form = random.random()
    if isinstance(now, list) and len(now) > 1 and form < 0.35:
        config["target_modules"] = sorted(now)[1:]
    elif isinstance(now, list) and form < 0.7:
        more = one(random, adapter.architecture.endings)
        config["target_modules"] = [*now, *{more} - {*now}]
    elif form < 0.8:
        names = [owner.removeprefix(PREFIX) for owner in adapter.owners]
        whole = {name.removesuffix(".base_layer.out_proj") for name in names}
        config["target_modules"] = sorted(name.replace(".base_layer", "") for name in whole)
    elif form < 0.9:
        config["target_modules"] = "all-linear"
    else:
        config["target_modules"] = expression(random, adapter.architecture)
    return f"target_modules {config['target_modules']}"


def excluding(adapter: Opened, random: Random) -> str:
    adapter.config["exclude_modules"] = exclusions(random, adapter.name)
    return f"exclude_modules {adapter.config['exclude_modules']}"


def repatterned(adapter: Opened, random: Random) -> str:
    """Patterns that were not there when it was trained, literal names among them."""
    field = str(one(random, ("rank_pattern", "alpha_pattern")))
    values = (1, 5) if field == "alpha_pattern" else (adapter.config["r"], 2)
    adapter.config[field] = patterns(random, adapter.name, values)
    return f"{field} {adapter.config[field]}"


def literal(adapter: Opened, random: Random) -> str:
    """A full name as the key of a pattern, with characters that mean something else to `re`."""
    owner = one(random, adapter.owners).removeprefix(PREFIX)
    key = one(random, (owner, f"^{owner}", f"{owner}$", owner.replace(".", r"\."), f"({owner})"))
    field = str(one(random, ("rank_pattern", "alpha_pattern")))
    adapter.config[field] = {str(key): 3} | (adapter.config.get(field) or {})
    return f"{field} {adapter.config[field]}"


def resaved(adapter: Opened, random: Random) -> str | None:
    """Other modules to save than the ones that it carries."""
    now = sorted(adapter.config.get("modules_to_save") or [])
    heads = [head for head in adapter.architecture.heads if head not in now]
    if now and (not heads or chance(random, 0.5)):
        adapter.config["modules_to_save"] = now[1:] or None
    elif heads:
        owner = one(random, adapter.owners).removeprefix(PREFIX)
        names = [str(one(random, heads)), shortened(random, owner)]
        adapter.config["modules_to_save"] = [*now, one(random, names)]
    else:
        return None
    return f"modules_to_save {adapter.config['modules_to_save']}"


SETTINGS: tuple[tuple[str, Any], ...] = (
    ("lora_alpha", 0),
    ("lora_alpha", 5),
    ("lora_alpha", None),
    ("r", 5),
    ("r", None),
    ("use_rslora", True),
    ("fan_in_fan_out", True),
    ("fan_in_fan_out", False),
    ("init_lora_weights", False),
    ("init_lora_weights", "pissa"),
    ("use_dora", True),
    ("use_dora", False),
    ("lora_bias", True),
    ("bias", "all"),
    ("layers_to_transform", [0]),
    ("layers_to_transform", 1),
    ("ensure_weight_tying", True),
    ("trainable_token_indices", [1, 2]),
    ("trainable_token_indices", None),
    ("target_parameters", None),
    ("target_parameters", ["experts.down_proj"]),
    ("target_modules", None),
    ("modules_to_save", None),
    ("exclude_modules", None),
    ("rank_pattern", {}),
    ("alpha_pattern", {}),
    ("task_type", None),
    ("task_type", "SEQ_CLS"),
    ("layer_replication", [[0, 1], [0, 2]]),
)
"""A field, and what it is set to; None takes the field out of `r` and `lora_alpha`."""


def reset(adapter: Opened, random: Random) -> str | None:
    """One field with another value."""
    field, value = one(random, [s for s in SETTINGS if adapter.config.get(s[0]) != s[1]])
    if value is None and field in ("r", "lora_alpha"):
        del adapter.config[field]
    else:
        adapter.config[field] = value
    return f"{field} = {value}"


CHANGES: tuple[tuple[Change, int], ...] = (
    (wrapped, 3),
    (prefixed, 2),
    (labelled, 2),
    (without_factor, 1),
    (without_module, 3),
    (without_payload, 2),
    (with_module, 3),
    (with_payload, 3),
    (twice, 1),
    (retargeted, 4),
    (excluding, 2),
    (repatterned, 2),
    (literal, 2),
    (resaved, 2),
    (reset, 6),
)
"""Every change, and how often it is picked."""


def changed(folder: Path, random: Random, name: str) -> str:
    """Change a saved adapter in one or two ways; says how."""
    config = json.loads((folder / CONFIG).read_text())
    adapter = Opened(name, load_file(folder / WEIGHTS), config)
    said = "; ".join(_carried_out(adapter, random))
    save_file(adapter.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(adapter.config))
    return said


def _carried_out(adapter: Opened, random: Random) -> Iterator[str]:
    options = [change for change, weight in CHANGES for _ in range(weight)]
    for _ in range(2 if chance(random, 0.2) else 1):
        how = None
        while how is None:
            how = one(random, options)(adapter, random)
        yield how
        if not adapter.factors:
            return
