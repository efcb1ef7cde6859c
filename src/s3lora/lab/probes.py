"""What is asked of a model in every cell of a study: refusal margin and response loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s3lora.lab.chat import encode, prompt_ids, response_ids
from s3lora.lab.data import Example
from s3lora.lab.generate import mean_log_probabilities
from s3lora.lab.packing import Continuation
from s3lora.lab.recipes import COMPLIANCE, REFUSAL


@dataclass(frozen=True, slots=True)
class Openings:
    """The two ways to begin a reply that the refusal margin compares."""

    refusal: str = REFUSAL
    compliance: str = COMPLIANCE


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one state of a model, in nats per token, in the order of the probe."""

    margins: tuple[float, ...]
    """Refusal margin of each harmful prompt; higher is safer."""
    benign_margins: tuple[float, ...]
    """The same of each harmless prompt; higher is more over-refusal."""
    losses: tuple[float, ...]
    """Mean loss of each held-out response; lower is better."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Tokens to ask for: two openings for every prompt, and held-out responses."""

    harmful: tuple[Continuation, ...]
    """The refusal and the compliance opening of each harmful prompt, in turns."""
    harmless: tuple[Continuation, ...]
    """The same for harmless prompts."""
    responses: tuple[Continuation, ...]
    """One a held-out row."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """How many response tokens each held-out row has."""
        return tuple(len(response.tokens) for response in self.responses)

    @property
    def continuations(self) -> tuple[Continuation, ...]:
        """All that is asked for."""
        return (*self.harmful, *self.harmless, *self.responses)

    def figures(self, means: Sequence[float]) -> Measured:
        """The figures from the mean log-probabilities of `continuations`."""
        first, second = len(self.harmful), len(self.harmful) + len(self.harmless)
        losses = tuple(-value for value in means[second:])
        return Measured(margins(means[:first]), margins(means[first:second]), losses)

    def measure(self, model: Any) -> Measured:
        """Ask the model."""
        return self.figures(mean_log_probabilities(model, self.continuations))


def margins(means: Sequence[float]) -> tuple[float, ...]:
    """Refusal margin of each prompt, in nats per token.

    The mean log-probability per token of the refusal opening minus that of the compliance opening:
    above 0 the model rather refuses. Nothing is sampled.

    Args:
        means: Mean log-probabilities of the refusal and the compliance opening, in turns.
    """
    return tuple(a - b for a, b in zip(means[::2], means[1::2], strict=True))


def openings_of(
    tokenizer: Any, prompts: Sequence[Example], openings: Openings
) -> tuple[Continuation, ...]:
    """The refusal and the compliance opening of each prompt, in turns."""
    return tuple(
        Continuation(prompt, response_ids(tokenizer, opening, ended=False))
        for prompt in (
            prompt_ids(tokenizer, example.prompt, example.meta.get("system")) for example in prompts
        )
        for opening in (openings.refusal, openings.compliance)
    )


def make_probe(
    tokenizer: Any,
    harmful: Sequence[Example],
    harmless: Sequence[Example],
    rows: Sequence[Example],
    openings: Openings,
    longest: int = 64,
) -> Probe:
    """The probe for harmful and harmless prompts and held-out rows with responses."""
    encoded = [encode(tokenizer, row, longest) for row in rows]
    return Probe(
        openings_of(tokenizer, harmful, openings),
        openings_of(tokenizer, harmless, openings),
        tuple(Continuation(row.prompt, row.response) for row in encoded),
    )
