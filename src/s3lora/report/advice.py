"""What to do about a finding, by its rule; what the rule means is in `s3lora.findings.RULES`."""

from __future__ import annotations

from inspect import cleandoc

from s3lora.errors import ParameterError
from s3lora.findings import RULES
from s3lora.methods import method_class
from s3lora.report.escape import printable

ADVICE: dict[str, str] = {
    "base-weight-payload": "Ask whoever made the adapter why it carries weights of the base "
    "model. Do not load it with PEFT unless that is wanted: remove the tensor and save again.",
    "unknown-tensor": "Find out which tool wrote the tensor and what a loader makes of it, or "
    "remove it and save the adapter again.",
    "untargeted-module": "Add the module to target_modules in adapter_config.json, or remove its "
    "tensors, so that every loader applies the same.",
    "missing-module": "Train or save the adapter again, or take the name out of the config.",
    "incomplete-module": "Save the adapter again; the module cannot be loaded as it is.",
    "broken-tensor": "Save the adapter again with all partitions gathered.",
    "shape-mismatch": "Save the adapter again, or correct r and the patterns in "
    "adapter_config.json.",
    "ambiguous-module": "Keep one tensor for each factor and save the adapter again.",
    "non-finite": "Do not load it: train again from a checkpoint that is finite, or prune the "
    "module.",
    "zero-update": "Use the base model without the adapter, or train the adapter again.",
    "unusual-key": "Rename the tensor as PEFT saves it: base_model.model.<module>.lora_A.weight.",
    "unknown-setting": "Look the field up in the version of PEFT that wrote it, and check that "
    "your loader knows it.",
    "default-setting": "Write the value into adapter_config.json, if it is the one that was "
    "trained with.",
    "refused-setting": "Take one of the two settings out of adapter_config.json.",
    "dead-pattern": "Remove the pattern, or correct it to the name of a module that is there.",
    "conditional-update": "Test the adapter with its invocation sequence too.",
    "random-module": "Set init_lora_weights to true in adapter_config.json.",
    "tied-update": "Set ensure_weight_tying to false in adapter_config.json, unless it was set in "
    "the training too.",
    "replicated-layers": "Ask whoever made the adapter for the model that it was trained on, and "
    "judge that; do not load the adapter onto another.",
    "imported-code": "Do not load the adapter before the field is taken out of "
    "adapter_config.json.",
    "unscanned-sibling": "Look at the file yourself before a loader does.",
    "score-gate": "Look at the module: compare it with the others, prune it, and measure what "
    "that changes.",
}

NO_PROOF = "A score is a reason to look at a module, no proof of harm."


def meaning(rule: str) -> str:
    """What a rule says; of a rule that this version does not know, its name."""
    return RULES.get(rule, f"A finding by the rule {printable(rule)}.")


def advice(rule: str) -> str:
    """What to do about a finding by a rule."""
    return ADVICE.get(rule, "See the message.")


def method_summary(name: str) -> str:
    """What a method says of a module, as its documentation puts it; its name if it is not here."""
    try:
        told = cleandoc(method_class(name).__doc__ or "")
    except ParameterError:
        told = ""
    return (
        told.partition("\n\n")[0].replace("\n", " ") or f"A score by the method {printable(name)}."
    )
