"""Settings with which PEFT loads nothing: values that it refuses, alone or together with others.

A value that leaves open what the tensors mean is an error when the config is read; what is here
leaves the tensors as they are, and a loader that does not look at the field may apply them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from s3lora.io.config_fields import shown
from s3lora.io.peft_config import SUB_CONFIGS, VARIANTS, PeftConfig

TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""PEFT's types of task."""
EXACT_INITS = ("eva", "orthogonal", "loftq", "lora_ga")
"""Starts that PEFT knows in lower case only."""
ANY_CASE_INITS = ("gaussian", "mica", "olora")
FROM_WEIGHT = ("pissa", "olora", "corda", "loftq", "orthogonal", "lora_ga")
"""Starts for which PEFT reads the weight of a module; one of stacked parameters has none."""
NEVER_STACKED = ("lora_dropout", "fan_in_fan_out", "lora_bias", "use_dora")
"""What PEFT does not do to a parameter."""
OBJECTS = (*SUB_CONFIGS, "eva_config", "corda_config", "lora_ga_config")
"""Fields that are an object or null."""
INPUT_EMBEDDING = "embed_tokens"
"""Whose rows a list of `trainable_token_indices` replaces, by its usual name."""

Refusal = tuple[str, str]
"""The field, and why PEFT refuses it."""


def refusals(config: PeftConfig, ranks: Collection[int], *, linear: bool) -> Iterator[Refusal]:
    """What PEFT refuses, and so loads nothing.

    Args:
        config: The validated config.
        ranks: The ranks that it gives the modules of the file.
        linear: Whether the file adapts anything but embeddings.
    """
    raw = config.raw
    for field, loads, form in VALUES:
        if field in raw and not loads(raw[field]):
            yield field, f"it is {_value(raw[field])}: PEFT refuses it, it must be {form}"
    if raw.get("megatron_config"):
        yield "megatron_config", "PEFT imports Megatron for it, and fails where that is missing"
    yield from _eva(raw.get("eva_config"))
    yield from _start(config, linear=linear)
    yield from _rows_of_tokens(config)
    yield from _together(config, ranks)
    yield from _two_variants(config)


def token_rows(value: object) -> dict[str, int] | None:
    """How many rows `trainable_token_indices` names, by the ending of a module's name.

    The name is empty for a list, which is about the input embedding. None if it is no value that
    the field can have.
    """
    if value is None:
        return {}
    by_name: Mapping[str, Any] = value if isinstance(value, dict) else {"": value}
    if not all(isinstance(rows, list) for rows in by_name.values()):
        return None
    if any(type(row) is not int or row < 0 for rows in by_name.values() for row in rows):
        return None
    return {name: len(rows) for name, rows in by_name.items()}


def _value(value: object) -> str:
    """A value as JSON has its plain ones, a long one in part."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shown(repr(value))


def _is_object(value: object) -> bool:
    return value is None or isinstance(value, dict)


def _is_bias(value: object) -> bool:
    """Whether PEFT knows which biases are meant; it takes any name that ends so for `lora_only`."""
    return isinstance(value, str) and (value in ("none", "all") or value.endswith("_only"))


VALUES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("rank_pattern", lambda value: isinstance(value, dict), "an object"),
    ("alpha_pattern", lambda value: isinstance(value, dict), "an object"),
    ("bias", _is_bias, "'none', 'all' or 'lora_only'"),
    (
        "lora_dropout",  # PEFT takes one below zero for none
        lambda value: isinstance(value, (int, float)) and value <= 1,
        "a number from 0 to 1",
    ),
    (
        "task_type",
        lambda value: value is None or value in TASKS,
        f"null or one of {', '.join(TASKS)}",
    ),
    *((name, _is_object, "an object or null") for name in OBJECTS if name != "monteclora_config"),
    # PEFT looks at this one only where it is set
    ("monteclora_config", lambda value: not value or isinstance(value, dict), "an object or null"),
)
"""Fields, whether PEFT loads an adapter with a value of it, and what it must be."""


def _eva(settings: object) -> Iterator[Refusal]:
    """Bounds that PEFT holds EVA's own settings to, whatever the start is."""
    if not isinstance(settings, dict):
        return
    for name, low, high in (("rho", 1, None), ("tau", 0, 1)):
        value = settings.get(name, 1)
        number = isinstance(value, (int, float))
        if not number or value < low or (high is not None and value > high):
            bounds = f"{low} or more" if high is None else f"from {low} to {high}"
            text = f"its {name} is {_value(value)}: PEFT refuses it, it must be {bounds}"
            yield "eva_config", text


def _start(config: PeftConfig, *, linear: bool) -> Iterator[Refusal]:
    """A start whose name PEFT does not know, or without what it needs."""
    init = config.raw.get("init_lora_weights", True)
    if not isinstance(init, str) or not init:
        return
    if init == "loftq" and not config.raw.get("loftq_config"):
        yield "init_lora_weights", "it is 'loftq', which PEFT refuses without loftq_config"
    if init.lower() == "mica" and config.parameters:
        yield "init_lora_weights", f"it is {init!r}, which PEFT refuses for target_parameters"
    if linear and not _known_start(init):
        names = ", ".join((*ANY_CASE_INITS, *EXACT_INITS, "pissa", "corda"))
        text = f"it is {shown(init)!r}, a start that PEFT does not know; it has {names}"
        yield "init_lora_weights", f"{text}, most of them in lower case only"


def _known_start(init: str) -> bool:
    if init.startswith("pissa"):
        _, mark, steps = init.partition("_niter_")
        return init == "pissa" or (bool(mark) and steps.isdecimal())
    return init in EXACT_INITS or init.lower() in ANY_CASE_INITS or init.startswith("corda")


def _rows_of_tokens(config: PeftConfig) -> Iterator[Refusal]:
    field = "trainable_token_indices"
    rows = token_rows(config.raw.get(field))
    if rows is None:
        text = "PEFT refuses it: it must be a list of row numbers, or an object of one by module"
        yield field, f"it is {_value(config.raw[field])}: {text}"
        return
    twice = sorted({name or INPUT_EMBEDDING for name in rows} & config.saved)
    if twice:
        yield field, f"PEFT refuses it: modules_to_save names {shown(twice[0])!r} too"


def _together(config: PeftConfig, ranks: Collection[int]) -> Iterator[Refusal]:
    """Settings that PEFT refuses together."""
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


def _two_variants(config: PeftConfig) -> Iterator[Refusal]:
    """Settings of which each makes another layer than LoRA's."""
    variants = [name for name in VARIANTS if config.sets(name)]
    variants += ["init_lora_weights"] if config.raw.get("init_lora_weights") == "mica" else []
    if len(variants) > 1:
        yield variants[0], f"PEFT refuses it together with {variants[1]}"
