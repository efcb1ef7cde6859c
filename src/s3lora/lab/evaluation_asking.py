"""What every state of a model is asked in an evaluation, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s3lora.errors import DataError, ParameterError
from s3lora.lab.chat import asked_ids
from s3lora.lab.data import Example
from s3lora.lab.generate import Reply, replies
from s3lora.lab.models import Chat
from s3lora.lab.planner.tasks import PlanningTask, make_tasks
from s3lora.lab.probes import Measured, Openings, Probe, make_probe
from s3lora.lab.recipes import SEED, Pools, tested

PLANNER = "planner"
NEW_TOKENS: Mapping[str, int] = {PLANNER: 256}
"""Tokens of a reply by recipe, where plans need more than `USUAL_TOKENS`."""
LONGEST: Mapping[str, int] = {PLANNER: 256}
"""Response tokens that the loss is taken over, likewise."""
USUAL_TOKENS, USUAL_LONGEST = 32, 64


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts of an evaluation; all states are asked the same in the same order."""

    harmful: tuple[Example, ...]
    harmless: tuple[Example, ...]
    answered: tuple[int, ...]
    """Places of the harmless prompts that have a reference response."""
    tasks: tuple[PlanningTask, ...]
    """The planning tasks behind the harmless prompts; empty but for a planner."""
    probe: Probe
    tokens: tuple[tuple[int, ...], ...]
    """The harmful prompts, then the harmless ones, as tokens."""
    new_tokens: int
    """Longest reply."""


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
    new_tokens = NEW_TOKENS.get(recipe, USUAL_TOKENS) if new_tokens is None else new_tokens
    longest = LONGEST.get(recipe, USUAL_LONGEST) if longest is None else longest
    if min(prompts, new_tokens, longest) < 1:
        raise ParameterError("nothing to ask", hint="prompts and tokens are at least 1")
    harmful, harmless = (rows[:prompts] for rows in tested(recipe, pools))
    answered = tuple(at for at, row in enumerate(harmless) if row.response)
    if not answered:
        raise DataError(
            "no harmless test prompt has a response, so utility cannot be measured",
            hint="add rows with responses, such as --harmless alpaca",
        )
    rows = [harmless[at] for at in answered]
    return Asked(
        harmful,
        harmless,
        answered,
        _tasks(pools, harmless) if recipe == PLANNER else (),
        make_probe(chat.tokenizer, harmful, harmless, rows, openings or Openings(), longest),
        tuple(asked_ids(chat.tokenizer, example) for example in (*harmful, *harmless)),
        new_tokens,
    )


def _tasks(pools: Pools, harmless: Sequence[Example]) -> tuple[PlanningTask, ...]:
    """The tasks that `tested` made its rows of; it says of a row no more than question and plan."""
    made = make_tasks(len(pools.harmless.test), SEED, "test")
    by_question = {task.question: task for task in made}
    return tuple(by_question[row.prompt] for row in harmless)


def answers_of(chat: Chat, asked: Asked) -> Answers:
    """Ask the model as it is now: log-probabilities, then greedy replies."""
    measured = asked.probe.measure(chat.model)
    written = replies(chat, asked.tokens, asked.new_tokens)
    count = len(asked.harmful)
    return Answers(measured, tuple(written[:count]), tuple(written[count:]))
