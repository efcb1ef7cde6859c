"""The suites: what each asks, what it scores, and how long a reply may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from s3lora.errors import ParameterError
from s3lora.lab.questions import Question
from s3lora.lab.recipes import RECIPES, Pools, pools
from s3lora.lab.suites.cases import (
    HARMFUL,
    HARMLESS,
    PLANNER,
    Case,
    cases_of,
    pair_cases,
    planning_cases,
    question_case,
    refuse_none,
)
from s3lora.lab.suites.measures import OVER_REFUSALS, PAIRS, PLANS, REFUSALS, USE, Measure
from s3lora.lab.suites.runs import ANSWERS, COSTS, QUANTITIES

NEW_TOKENS: Mapping[str, int] = {PLANNER: 256}
"""Tokens of a reply by recipe, where plans need more than `USUAL_TOKENS`."""
USUAL_TOKENS = 32

NAMES = ("refusal", "over-refusal", "planner")


@dataclass(frozen=True, slots=True)
class Suite:
    """What is asked and scored together."""

    name: str
    cases: tuple[Case, ...]
    measures: tuple[Measure, ...]
    new_tokens: int
    """Longest reply."""
    split: str = ""
    """Digests of the data sets' parts, harmful and harmless; empty for made tasks."""


def refusal(data: Pools, recipe: str, prompts: int, new_tokens: int | None = None) -> Suite:
    """Harmful test prompts, and as many harmless ones: safety is not told without utility."""
    harmful, harmless = cases_of(data, known(recipe), prompts)
    measures = (*REFUSALS, *OVER_REFUSALS, *USE)
    longest = tokens_for(recipe, new_tokens)
    return Suite("refusal", (*harmful, *harmless), measures, longest, _split(data))


def over_refusal(data: Pools, recipe: str, prompts: int, new_tokens: int | None = None) -> Suite:
    """Harmless test prompts alone."""
    _, harmless = cases_of(data, known(recipe), prompts)
    measures = (*OVER_REFUSALS, *USE)
    longest = tokens_for(recipe, new_tokens)
    return Suite("over-refusal", tuple(harmless), measures, longest, _split(data))


def planner(
    tasks: int,
    pairs: int,
    new_tokens: int | None = None,
    *,
    carry_out: bool = True,
    questions: Sequence[Question] = (),
    source: str = PLANNER,
) -> Suite:
    """Planning tasks, and pairs of a harmful and a harmless one.

    Args:
        tasks: How many tasks, if no questions are given.
        pairs: How many pairs.
        new_tokens: Longest plan; what suits plans if None.
        carry_out: Whether the plans for harmless tasks are carried out.
        questions: Asked instead of our tasks. The plans for the twins are then not carried out:
            what the questions are answered from tells nothing of our world.
        source: Where they come from.
    """
    if questions:
        asked = [question_case(each, source, carry_out=carry_out) for each in questions]
        cases = [*asked, *pair_cases(pairs)]
    else:
        cases = planning_cases(tasks, pairs, carry_out=carry_out)
    carried = (*ANSWERS, *COSTS) if carry_out else COSTS[: len(QUANTITIES)]
    measures = (*PLANS, *PAIRS, *carried)
    return Suite("planner", tuple(cases), measures, tokens_for(PLANNER, new_tokens))


@lru_cache(maxsize=2)
def data(harmful: tuple[str, ...] = (), harmless: tuple[str, ...] = ()) -> Pools:
    """The rows of these data sets, split as everywhere; the usual ones where none is named."""
    return pools(harmful or HARMFUL, harmless or HARMLESS)


def tokens_for(recipe: str, asked: int | None) -> int:
    """The longest reply: what is asked for, or what suits the recipe.

    Raises:
        ParameterError: if less than 1 is asked for.
    """
    tokens = NEW_TOKENS.get(recipe, USUAL_TOKENS) if asked is None else asked
    refuse_none(tokens)
    return tokens


def known(recipe: str) -> str:
    """The name of a recipe.

    Raises:
        ParameterError: if there is no such recipe.
    """
    if recipe not in RECIPES:
        raise ParameterError(f"there is no recipe {recipe!r}", hint=f"one of {', '.join(RECIPES)}")
    return recipe


def _split(data: Pools) -> str:
    return f"{data.harmful.digest} {data.harmless.digest}"
