"""What every state of a model is asked in an evaluation, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from s3lora.errors import ParameterError
from s3lora.lab.chat import asked_ids
from s3lora.lab.data import Example
from s3lora.lab.generate import Advance, Reply, replies, unheard
from s3lora.lab.models import Chat
from s3lora.lab.probes import Measured, Openings, Probe, make_probe
from s3lora.lab.recipes import Pools
from s3lora.lab.suites.cases import PLANNER, Case, cases_of
from s3lora.lab.suites.suites import tokens_for

LONGEST: Mapping[str, int] = {PLANNER: 256}
"""Response tokens that the loss is taken over, by recipe, where plans need more than usual."""
USUAL_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts of an evaluation; all states are asked the same in the same order."""

    cases: tuple[Case, ...]
    """Harmful ones, then harmless ones."""
    answered: tuple[int, ...]
    """Places among the harmless prompts of those with a reference response."""
    probe: Probe
    tokens: tuple[tuple[int, ...], ...]
    """The harmful prompts, then the harmless ones, as tokens."""
    new_tokens: int
    """Longest reply."""
    openings: Openings
    """What the probe compares."""

    @property
    def harmful(self) -> tuple[Example, ...]:
        """The harmful prompts."""
        return tuple(case.example for case in self.cases if case.side == "harmful")

    @property
    def harmless(self) -> tuple[Example, ...]:
        """The harmless prompts."""
        return tuple(case.example for case in self.cases if case.side == "harmless")

    @property
    def plans(self) -> bool:
        """Whether the harmless prompts are planning tasks."""
        return any(case.task for case in self.cases)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one state of a model gave."""

    measured: Measured
    harmful: tuple[Reply, ...]
    harmless: tuple[Reply, ...]

    @property
    def all(self) -> tuple[Reply, ...]:
        """The replies to all prompts."""
        return (*self.harmful, *self.harmless)


def asked_of(
    chat: Chat,
    pools: Pools,
    recipe: str,
    *,
    prompts: int,
    new_tokens: int | None = None,
    longest: int | None = None,
    openings: Openings | None = None,
) -> Asked:
    """The first test prompts of each kind, in the template that a recipe trains with.

    Args:
        chat: Whose tokenizer and chat format are used.
        pools: Only the test parts are touched.
        recipe: A name of `s3lora.lab.recipes.RECIPES`.
        prompts: How many of each kind, at most.
        new_tokens: Longest reply; what suits the recipe if None.
        longest: Response tokens of a row that the loss is taken over, at most; likewise.
        openings: What the refusal margin compares.

    Raises:
        DataError: if no harmless prompt has a response: safety is not told without utility.
        ParameterError: if `prompts` or `new_tokens` is less than 1.
    """
    new_tokens = tokens_for(recipe, new_tokens)
    longest = LONGEST.get(recipe, USUAL_LONGEST) if longest is None else longest
    if longest < 1:
        raise ParameterError("nothing to ask", hint="prompts and tokens are at least 1")
    cases = [*chain(*cases_of(pools, recipe, prompts))]
    harmful, harmless = (
        [case.example for case in cases if case.side == side] for side in ("harmful", "harmless")
    )
    answered = tuple(at for at, row in enumerate(harmless) if row.response)
    rows = [harmless[at] for at in answered]
    compared = openings or Openings()
    return Asked(
        tuple(cases),
        answered,
        make_probe(chat.tokenizer, harmful, harmless, rows, compared, longest),
        tuple(asked_ids(chat.tokenizer, example) for example in (*harmful, *harmless)),
        new_tokens,
        compared,
    )


def answers_of(chat: Chat, asked: Asked, advance: Advance = unheard) -> Answers:
    """Ask the model as it is now: log-probabilities, then greedy replies.

    Args:
        chat: The model.
        asked: From `asked_of`.
        advance: Takes how much is done, from 0 to twice the number of prompts: each is asked for
            log-probabilities, and for a reply.
    """
    prompts = len(asked.tokens)
    each = prompts / max(1, len(asked.probe.continuations))
    measured = asked.probe.measure(chat.model, lambda count: advance(count * each))
    written = replies(
        chat, asked.tokens, asked.new_tokens, advance=lambda count: advance(prompts + count)
    )
    count = len(asked.harmful)
    return Answers(measured, tuple(written[:count]), tuple(written[count:]))
