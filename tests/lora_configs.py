"""LoRA configs as people write them, drawn at random for a model, and adapters saved with them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open

from adapters import WEIGHTS
from architectures import ARCHITECTURES, Architecture, adaptable, fresh

Fields = dict[str, Any]
Random = np.random.Generator

TRIES = 20
"""Drawn configs that PEFT itself refuses are drawn again, this often at most."""


def some(random: Random, options: Sequence[str], most: int = 4) -> list[str]:
    """At least one of the options, in random order."""
    size = int(random.integers(1, min(most, len(options)) + 1))
    return [options[n] for n in random.permutation(len(options))[:size]]


def one(random: Random, options: Sequence[Any]) -> Any:
    return options[int(random.integers(len(options)))]


def chance(random: Random, share: float) -> bool:
    return bool(random.random() < share)


def expression(random: Random, architecture: Architecture) -> str:
    """A regular expression as people write it, over a few endings."""
    ends = "|".join(map(re.escape, some(random, architecture.endings)))
    layers = architecture.layer_list or "layers"
    forms = (
        rf".*\.({ends})",
        rf"(?:.*\.)?({ends})",
        rf".*{layers}\.[01]\..*\.?({ends})",
        rf".*\.{layers}\.1\..*({ends})$",
        rf"^(?!.*nothing).*(?:{ends}).*(?<!norm)$",
        rf".*\.(\d+)\..*({ends})",
    )
    return str(one(random, forms))


def shortened(random: Random, name: str) -> str:
    """A full name, or what is left of it after some of its dots."""
    pieces = name.split(".")
    return ".".join(pieces[int(random.integers(len(pieces))) :])


def targets(random: Random, name: str) -> list[str] | str:
    """A value of `target_modules`."""
    architecture, names = ARCHITECTURES[name], adaptable(name)
    form = random.random()
    if form < 0.4:
        chosen = some(random, architecture.endings, len(architecture.endings))
    elif form < 0.5:
        chosen = some(random, names, 6)
    elif form < 0.6:
        chosen = [shortened(random, full) for full in some(random, names, 6)]
    elif form < 0.8:
        return expression(random, architecture)
    elif form < 0.9:
        return "all-linear"
    else:
        chosen = list(architecture.endings)
    if architecture.embedding and chance(random, 0.12):
        chosen.append(architecture.embedding)
    if architecture.heads and chance(random, 0.08):
        chosen.append(one(random, architecture.heads))
    return chosen


def exclusions(random: Random, name: str) -> list[str] | str:
    """A value of `exclude_modules`."""
    architecture, names = ARCHITECTURES[name], adaptable(name)
    if architecture.excluded and chance(random, 0.6):
        return str(one(random, architecture.excluded))
    form = random.random()
    if form < 0.3:
        return some(random, architecture.endings, 2)
    if form < 0.6:
        return [shortened(random, full) for full in some(random, names, 4)]
    if form < 0.8:
        return rf".*\.0\..*({'|'.join(some(random, architecture.endings, 2))})"
    return r".*\.0\..*"


def patterns(random: Random, name: str, values: Sequence[int]) -> dict[str, int]:
    """A value of `rank_pattern` or `alpha_pattern`."""
    architecture, names = ARCHITECTURES[name], adaptable(name)
    forms = [
        str(one(random, architecture.endings)),
        shortened(random, str(one(random, names))),
        str(one(random, names)),
        "^" + re.escape(str(one(random, names))),
        rf".*\.1\..*({'|'.join(some(random, architecture.endings, 2))})",
        expression(random, architecture),
        "nothing_proj",
    ]
    forms += [shortened(random, name) for name in architecture.parameters]
    return {key: int(one(random, values)) for key in some(random, forms, 3)}


def drawn(random: Random, name: str) -> Fields:
    """The arguments of a LoraConfig for a model, most of them rare."""
    architecture = ARCHITECTURES[name]
    fields: Fields = {
        "r": int(one(random, (1, 2, 3, 4, 8))),
        "lora_alpha": int(one(random, (1, 2, 3, 8, 16, 32))),
        "target_modules": targets(random, name),
        "fan_in_fan_out": name == "gpt2",
    }
    if chance(random, 0.8):
        fields["task_type"] = architecture.task
    if architecture.parameters and chance(random, 0.4):
        fields["target_parameters"] = [
            shortened(random, parameter) for parameter in some(random, architecture.parameters)
        ]
        if chance(random, 0.3):
            fields["target_modules"] = []
    if chance(random, 0.25):
        fields["exclude_modules"] = exclusions(random, name)
    if chance(random, 0.25):
        fields["rank_pattern"] = patterns(random, name, (1, 2, 5, 6))
    if chance(random, 0.25):
        fields["alpha_pattern"] = patterns(random, name, (1, 4, 7))
    if chance(random, 0.25):
        fields["use_rslora"] = True
    if architecture.heads and chance(random, 0.2):
        fields["modules_to_save"] = some(random, architecture.heads)
    if not isinstance(fields["target_modules"], str) and chance(random, 0.15):
        fields |= layers(random, architecture)
    fields |= _rare(random, architecture)
    return fields


def layers(random: Random, architecture: Architecture) -> Fields:
    """`layers_to_transform`, often with the name of the list of layers."""
    fields: Fields = {"layers_to_transform": one(random, ([0], [1], 1, [0, 1]))}
    if architecture.layer_list and chance(random, 0.5):
        fields["layers_pattern"] = architecture.layer_list
    return fields


def _rare(random: Random, architecture: Architecture) -> Fields:
    """Settings that few adapters have."""
    fields: Fields = {}
    if chance(random, 0.08):
        fields["bias"] = one(random, ("all", "lora_only"))
    if chance(random, 0.06):
        fields["use_dora"] = True
    if chance(random, 0.05):
        fields["lora_bias"] = True
    if chance(random, 0.15):
        fields["init_lora_weights"] = one(
            random, ("gaussian", "orthogonal", False, "pissa", "olora")
        )
    if architecture.embedding and chance(random, 0.06):
        fields["trainable_token_indices"] = one(random, ([1, 3], {architecture.embedding: [0, 2]}))
    # PEFT ties embeddings of other names when training starts, and not when it loads the result.
    if architecture.embedding == "embed_tokens" and chance(random, 0.06):
        fields["ensure_weight_tying"] = True
    if architecture.layer_list and architecture.task == "CAUSAL_LM" and chance(random, 0.03):
        fields["layer_replication"] = [[0, 2], [1, 2]]
    return fields


def saved(folder: Path, random: Random, name: str) -> Fields:
    """Save a random adapter as PEFT does after training; every number of it is random.

    Returns:
        The arguments of its LoraConfig.
    """
    for _ in range(TRIES):
        fields = drawn(random, name)
        try:
            save(folder, name, fields)
        except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError):
            continue  # PEFT does not make such an adapter
        if not _adapted_twice(folder):
            return fields
    raise AssertionError(f"PEFT refused {TRIES} configs for {name}, the last one {fields}")


def _adapted_twice(folder: Path) -> bool:
    """Whether a loose expression met the output projection inside an attention that it met too."""
    with safe_open(folder / WEIGHTS, "np") as file:
        paths = {key.rpartition(".lora_")[0] for key in file.keys()}  # noqa: SIM118
    return any(path.replace(".base_layer", "") in paths - {path} for path in paths)


def save(folder: Path, name: str, fields: Fields) -> None:
    """Save an adapter of these settings; every number of it is random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says of odd settings is not what is tested
        torch.manual_seed(1)
        model = get_peft_model(fresh(name), LoraConfig(**fields))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn_like(parameter) * 0.3)
        if "resized" in name:
            model.get_input_embeddings().weight.data.mul_(1.5)
        model.create_or_update_model_card = lambda folder: None  # slow, and not read
        embeddings = True if "resized" in name else "auto"
        model.save_pretrained(folder, save_embedding_layers=embeddings)
