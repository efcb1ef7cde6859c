"""Settings of a config that change how an update is used, and that no score sees."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from s3lora.findings import Finding
from s3lora.io.config_fields import shown
from s3lora.io.peft_config import DEFAULTS, KNOWN_FIELDS, PeftConfig
from s3lora.io.peft_targets import TIED

MEGATRON = "megatron.core"
KNOWN_LIBRARIES = frozenset(
    """__main__ diffusers lerobot open_clip peft sentence_transformers timm torch torchvision
    transformers""".split()
)
"""What `auto_mapping` of an honest adapter imports: the libraries that PEFT allows, other known
ones, and the program that runs already."""
REMOTE_CODE = "transformers_modules"
"""Where transformers keeps the code that came with a base model."""
FROM_WEIGHT = ("pissa", "olora", "corda", "loftq", "orthogonal", "lora_ga")
"""Starts for which PEFT reads the weight of a module; one of stacked parameters has none."""
NEVER_STACKED = ("lora_dropout", "fan_in_fan_out", "lora_bias", "use_dora")
"""What PEFT does not do to a parameter."""


def setting_findings(
    config: PeftConfig, carried: Mapping[str, int], embedded: Collection[str]
) -> Iterator[Finding]:
    """What the settings themselves bring up.

    Args:
        config: The validated config.
        carried: The modules and stacked parameters of the file, as the config knows them, and the
            rank that it gives each.
        embedded: Those of them that are embeddings.
    """
    yield from _imports(config.raw)
    yield from _changed_use(config)
    yield from _random(config, carried)
    yield from _tied(config, carried, embedded)
    for conflict in _conflicts(config, carried.values()):
        yield Finding("refused-setting", "medium", *conflict)
    for name, value in DEFAULTS.items():
        if name not in config.raw:
            text = f"it is not set: PEFT takes {value}, vLLM refuses the adapter"
            yield Finding("default-setting", "low", name, text)
    for name, value in config.raw.items():
        if name not in KNOWN_FIELDS and value:
            text = "this version does not know the field"
            yield Finding("unknown-setting", "low", shown(name), text)


def _imports(raw: Any) -> Iterator[Finding]:
    """Fields by whose value a loader picks code to import."""
    core = raw.get("megatron_core")
    if core not in (None, MEGATRON):
        text = f"it names {shown(str(core))!r}, not {MEGATRON!r}: PEFT up to 0.17.1 imports it"
        yield Finding("imported-code", "high", "megatron_core", text)
    mapping = raw.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if library is None:
        return
    root = str(library).partition(".")[0]
    text = f"its parent_library is {shown(str(library))!r}: AutoPeftModel imports that"
    if root == REMOTE_CODE:
        yield Finding("imported-code", "medium", "auto_mapping", f"{text}, the base model's code")
    elif root not in KNOWN_LIBRARIES:
        yield Finding("imported-code", "high", "auto_mapping", text)


def _changed_use(config: PeftConfig) -> Iterator[Finding]:
    """Settings by which the update is applied in part, or to another model."""
    if config.targets is None and not config.parameters:
        text = "it is not set: PEFT picks modules by the base model's type, others apply them all"
        yield Finding("unknown-setting", "medium", "target_modules", text)
    if config.raw.get("alora_invocation_tokens"):
        text = "the update is applied only after the invocation tokens (aLoRA)"
        yield Finding("conditional-update", "medium", "alora_invocation_tokens", text)
    if config.raw.get("layer_replication"):
        text = "PEFT repeats layers of the base model: without any update it is another model"
        yield Finding("replicated-layers", "medium", "layer_replication", text)


def _random(config: PeftConfig, carried: Collection[str]) -> Iterator[Finding]:
    """Whether modules that the file lacks would be live with random factors."""
    if config.raw.get("init_lora_weights", True):
        return
    targets = config.targets if isinstance(config.targets, tuple) else None
    exact = targets is not None or (config.targets is None and config.parameters)
    names = {*(targets or ()), *config.parameters}
    if not exact or not names.issubset(carried):
        text = "it is off: whatever PEFT targets and the file does not carry is live at random"
        yield Finding("random-module", "medium", "init_lora_weights", text)


def _tied(
    config: PeftConfig, carried: Collection[str], embedded: Collection[str]
) -> Iterator[Finding]:
    """Whether PEFT would apply the update of an embedding to the output layer too."""
    if not config.raw.get("ensure_weight_tying"):
        return
    named = {name.rpartition(".")[2] for name in (*carried, *config.saved)}
    if embedded or not TIED.isdisjoint(named) or config.raw.get("trainable_token_indices"):
        text = "where embedding and output layer share a weight, PEFT applies it a second time"
        yield Finding("tied-update", "medium", "ensure_weight_tying", text)


def _conflicts(config: PeftConfig, ranks: Collection[int]) -> Iterator[tuple[str, str]]:
    """Settings that PEFT refuses together: where, and why."""
    raw = config.raw
    init = raw.get("init_lora_weights", True)
    if isinstance(config.targets, str):
        for name in ("layers_to_transform", "layers_pattern"):
            if raw.get(name) is not None:
                yield name, "PEFT refuses it where target_modules is an expression"
    elif raw.get("layers_pattern") and raw.get("layers_to_transform") is None:
        yield "layers_pattern", "PEFT refuses it without layers_to_transform"
    if raw.get("lora_bias") and (raw.get("use_dora") or isinstance(init, str)):
        yield "lora_bias", "PEFT refuses it together with use_dora or a named start"
    for name in NEVER_STACKED if config.parameters else ():
        if raw.get(name):
            yield name, "PEFT refuses it together with target_parameters"
    weightless = [name for name in config.parameters if not name.endswith("weight")]
    if weightless and isinstance(init, str) and init.lower().startswith(FROM_WEIGHT):
        yield "init_lora_weights", f"PEFT refuses it for {shown(weightless[0])}"
    if init == "orthogonal" and any(r % 2 for r in ranks):
        yield "init_lora_weights", "PEFT refuses an orthogonal start at an odd rank"
