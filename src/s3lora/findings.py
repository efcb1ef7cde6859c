"""What is odd about a file: one `Finding` each, by the rules listed here.

A finding is about the file, never about a score. Its severity decides the exit status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")

RULES: dict[str, str] = {
    "base-weight-payload": "A tensor that is not LoRA: PEFT loads it over the base model's own "
    "weights, without a warning, and disabling the adapter does not undo it.",
    "unknown-tensor": "A tensor that no known layout explains.",
    "untargeted-module": "The file carries a module that the config does not target: PEFT leaves "
    "it out, vLLM and llama.cpp apply it.",
    "missing-module": "The config targets or announces a module that the file does not carry.",
    "incomplete-module": "One of the two factors of a module is missing.",
    "broken-tensor": "A factor has no entries, or not the dimensions of a factor: a save that "
    "went wrong, as partitioned (ZeRO-3) saves do.",
    "shape-mismatch": "The shapes of the factors contradict each other or the rank in the config.",
    "ambiguous-module": "Several tensors claim to be the same factor of one module.",
    "non-finite": "A factor holds NaN or Inf, or the update overflows.",
    "zero-update": "Every update is zero: the adapter does nothing.",
    "unusual-key": "A tensor is named in a way that some loaders read differently or ignore.",
    "unknown-setting": "The config sets a field that this version does not know, or leaves open "
    "which modules it targets.",
    "default-setting": "The config leaves out a field that PEFT has a default for and vLLM wants.",
    "refused-setting": "PEFT refuses a setting, or two of them together, so it loads nothing.",
    "dead-pattern": "A rank or alpha pattern matches no module of the file.",
    "conditional-update": "The update is applied only after an invocation sequence (aLoRA).",
    "random-module": "The start of the factors is off, and the config targets more than the file "
    "carries, or may: PEFT leaves random factors live in the rest.",
    "tied-update": "PEFT applies the update of an embedding a second time, to the output layer.",
    "replicated-layers": "The config repeats layers of the base model, which no score sees.",
    "imported-code": "The config names a module that a loader imports, which runs its code.",
    "unscanned-sibling": "A file beside the adapter that was not looked into.",
    "score-gate": "A module's score crossed the gate that was asked for on the command line.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One odd thing about an adapter."""

    rule: str
    """A key of `RULES`."""
    severity: Severity
    """How much it matters to someone about to load the adapter."""
    where: str
    """The tensor, module, config field or file it is about."""
    message: str
    """What is odd, in one sentence, and where useful what to do."""


def at_least(findings: tuple[Finding, ...], level: Severity) -> tuple[Finding, ...]:
    """The findings whose severity is `level` or higher, in the order given."""
    reach = SEVERITIES.index(level)
    return tuple(f for f in findings if SEVERITIES.index(f.severity) <= reach)
