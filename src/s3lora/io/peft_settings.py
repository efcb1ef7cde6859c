"""Settings of a config that change how an update is used, and that no score sees."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from s3lora.findings import Finding
from s3lora.io.config_fields import shown
from s3lora.io.peft_config import DEFAULTS, KNOWN_FIELDS, PeftConfig
from s3lora.io.peft_refusals import refusals
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
    linear = len(embedded) < len(carried)
    for where, text in refusals(config, carried.values(), linear=linear):
        # with an unknown start nothing can be judged, which has a status; a newer PEFT may know it
        unjudged = where == "init_lora_weights" and config.unscored
        yield Finding("refused-setting", "low" if unjudged else "medium", where, text)
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
