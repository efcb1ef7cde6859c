"""PEFT's adapter_config.json: read strictly, as typed fields.

Which module has which rank and scale, and whether it is targeted, is in `peft_targets`; what is
odd about the settings themselves in `peft_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3lora.errors import UnsupportedError
from s3lora.io import config_fields as fields
from s3lora.io.config_fields import HINT
from s3lora.io.regular_file import refuse_stand_in
from s3lora.io.strict_json import parse

MAX_CONFIG = 16 * 2**20
"""Largest config read, in bytes: one that names 50,000 expert modules has 3 MB."""
MAX_MARKS = 600_000
"""Most marks of JSON in a config: as many as if it also gave each of those its rank and alpha."""
MAX_LAYER_LISTS = 10
"""Most names that `layers_pattern` may have; models have one or two lists of layers."""
MAX_SAVED = 1000
"""Most names that `modules_to_save` may have; adapters have fewer than twenty."""

DEFAULTS = {"r": 8, "lora_alpha": 8}
"""What PEFT takes where the config leaves these out."""

TASK_HEADS: dict[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""What PEFT adds to `modules_to_save` for a type of task, whenever it makes or loads an adapter."""

OTHER_TYPES = {
    "ADALORA": "AdaLoRA scales each rank by lora_E: its update is B·(A∘E)",
    "LOHA": "LoHa's update is a Hadamard product of full rank",
    "LOKR": "LoKr's update is a Kronecker product of full rank",
    "OFT": "OFT rotates the base weights, so its update needs them",
    "BOFT": "BOFT rotates the base weights, so its update needs them",
    "HIRA": "HiRA multiplies the base weights, so its update needs them",
    "IA3": "IA³ rescales activations; it has no additive update",
    "VERA": "VeRA's factors are random matrices that the file need not carry",
    "XLORA": "X-LoRA mixes adapters by a gate that depends on the input",
}

OTHER_VARIANTS = {
    "use_dora": "DoRA: the true update depends on the base weights",
    "use_qalora": "QA-LoRA pools the inputs before A: the update is not s·B·A",
    "use_bdlora": "BD-LoRA: the factors are block-diagonal shards, not A and B",
    "velora_config": "VeLoRA: the update is not s·B·A",
    "monteclora_config": "MonteCLoRA samples its update: it is not s·B·A",
    "kasa_config": "KaSA: the update has a diagonal between B and A and changes the base weights",
    "arrow_config": "Arrow routes each token among other adapters: the update is not s·B·A",
}

SUB_CONFIGS = ("arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "velora_config")
"""Of these the fields whose value is an object: an empty one sets them too, to PEFT's defaults."""
VARIANTS = ("use_dora", "alora_invocation_tokens", *SUB_CONFIGS)
"""Of what changes an update, the fields of which PEFT takes one at most."""

BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")

KNOWN_FIELDS = frozenset(
    """alora_invocation_tokens alpha_pattern arrow_config auto_mapping base_model_name_or_path bias
    corda_config ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode
    init_lora_weights kasa_config layer_replication layers_pattern layers_to_transform loftq_config
    lora_alpha lora_bias lora_dropout lora_ga_config megatron_config megatron_core modules_to_save
    monteclora_config peft_type peft_version qalora_group_size r rank_pattern revision
    runtime_config target_modules target_parameters task_type trainable_token_indices use_bdlora
    use_dora use_qalora use_rslora velora_config""".split()
)
"""The fields of PEFT 0.21's LoraConfig."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The fields of a LoRA config that decide what its tensors mean, validated."""

    raw: Mapping[str, Any]
    """Everything, as it stands in the file."""
    r: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]
    """`rank_pattern`."""
    alphas: Mapping[str, float]
    """`alpha_pattern`."""
    targets: str | tuple[str, ...] | None
    """`target_modules`: an expression, names or suffixes, or None for PEFT's own choice."""
    excluded: str | tuple[str, ...]
    """`exclude_modules`."""
    saved: frozenset[str]
    """`modules_to_save`, and what the task type adds to it."""
    parameters: tuple[str, ...]
    """`target_parameters`."""
    layers: frozenset[int] | None
    """`layers_to_transform`; None if every layer is."""
    layer_lists: tuple[str, ...]
    """`layers_pattern`."""

    @property
    def every_linear(self) -> bool:
        """Whether it targets every linear layer but the output layer."""
        return isinstance(self.targets, str) and self.targets.lower() == "all-linear"

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of heads that the task type asks for."""
        return TASK_HEADS.get(str(self.raw.get("task_type")), ())

    def sets(self, field: str) -> bool:
        """Whether the config sets a field that makes the update another one than s·B·A."""
        value = self.raw.get(field)
        return bool(value) or (field in SUB_CONFIGS and isinstance(value, dict))

    @property
    def unscored(self) -> str:
        """Why no module of this adapter can be judged from the file; empty if they can."""
        for field, reason in OTHER_VARIANTS.items():
            value = self.raw.get(field)
            if isinstance(value, str) and value and field not in SUB_CONFIGS:
                return f"{reason} ({field} is the text {value[:40]!r}, which PEFT takes as set)"
            if self.sets(field):
                return reason
        init = self.raw.get("init_lora_weights", True) or False
        if isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS):
            return (
                f"init_lora_weights={init[:40]!r}: training started from A and B cut out of the "
                "base weights, so the file's s·B·A is not the update"
            )
        if isinstance(init, str) and init.lower() not in PLAIN_INITS:
            return f"init_lora_weights={init[:40]!r} is not known: the base may have been changed"
        return ""

    @property
    def rebased(self) -> bool:
        """Whether loading the adapter also changes the base weights (PiSSA and its like)."""
        init = self.raw.get("init_lora_weights", True) or False
        return isinstance(init, str) and init.lower() not in PLAIN_INITS


def parse_config(raw: bytes, path: Path) -> PeftConfig:
    """The bytes of an adapter_config.json as typed fields.

    Raises:
        AdapterError: if it is broken, or a field has a value it cannot have.
        UnsupportedError: if it is the config of another method than LoRA.
    """
    refuse_stand_in(path, raw[:64])
    return validated(parse(raw, str(path), marks=MAX_MARKS, hint=HINT))


def validated(raw: Mapping[str, Any]) -> PeftConfig:
    """The config as typed fields; see `parse_config` for what it raises."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        if kind is None and isinstance(raw.get("config"), dict):
            raise UnsupportedError(
                "this is the config of an adapter in AdapterHub's layout",
                hint="only PEFT's layout is read; convert it to a PEFT adapter first",
            )
        if not isinstance(kind, str):
            raise fields.refusal("peft_type", kind, "'LORA'")
        reason = OTHER_TYPES.get(kind, "it is not LoRA")
        raise UnsupportedError(
            f"cannot judge an adapter of type {kind[:40]!r}: {reason}",
            hint="s3lora reads LoRA adapters; train or convert it as LoRA to have it scored",
        )
    init = raw.get("init_lora_weights", True)
    if not isinstance(init, (str, bool, type(None))):
        raise fields.refusal("init_lora_weights", init, "true, false or a name")
    layers = raw.get("layers_to_transform")
    numbers = fields.listed("layers_to_transform", [layers] if type(layers) is int else layers, int)
    saved = fields.names(raw, "modules_to_save", MAX_SAVED)
    task = raw.get("task_type")
    ranks = fields.mapping(raw, "rank_pattern")
    alphas = fields.mapping(raw, "alpha_pattern")
    return PeftConfig(
        raw=raw,
        r=fields.rank("r", raw.get("r", DEFAULTS["r"])),
        alpha=fields.number("lora_alpha", raw.get("lora_alpha", DEFAULTS["lora_alpha"])),
        rslora=fields.flag(raw, "use_rslora"),
        ranks={key: fields.rank("rank_pattern", value) for key, value in ranks.items()},
        alphas={key: fields.number("alpha_pattern", value) for key, value in alphas.items()},
        targets=fields.targets(raw, "target_modules"),
        excluded=fields.targets(raw, "exclude_modules") or (),
        saved=frozenset((*saved, *TASK_HEADS.get(str(task), ()))),
        parameters=fields.names(raw, "target_parameters"),
        layers=frozenset(numbers) if numbers else None,
        layer_lists=fields.names(raw, "layers_pattern", MAX_LAYER_LISTS, alone=True),
    )
