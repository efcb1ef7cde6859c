"""A model without an adapter, with it, and with a plan applied: asked the same, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from s3lora.adapter import Adapter
from s3lora.lab.base_names import other_base
from s3lora.lab.evaluation_asking import Answers, Asked, answers_of
from s3lora.lab.evaluation_figures import Block, Result, difference, results
from s3lora.lab.evaluation_plan import left_by
from s3lora.lab.evaluation_warnings import broken, left_out, little_to_restore, notes, off_task
from s3lora.lab.generate import Advance
from s3lora.lab.metrics.intervals import Figure
from s3lora.lab.metrics.judge import Judge
from s3lora.lab.models import Chat
from s3lora.lab.patched import Patched
from s3lora.plan import Plan, plan

BARE, WITH, PLANNED = "model", "adapter", "plan"

Say = Callable[[str], None]
Progress = Callable[[float, int, str], None]
"""Takes how many prompts are done, of how many, and what is asked of them now."""


def _unheard(count: float, total: int, doing: str) -> None:
    """Nobody wants to know how far it is."""


@dataclass(frozen=True, slots=True)
class State:
    """One state of a model and its figures."""

    name: str
    """`model`, `adapter` or `plan`."""
    modules: int
    """LoRA modules that it has."""
    results: tuple[Result, ...]

    def result(self, key: str) -> Result | None:
        """The result of that key."""
        return next((result for result in self.results if result.key == key), None)

    def value(self, key: str) -> float | None:
        """The value of the figure of that key."""
        found = self.result(key)
        return found.figure.value if found else None


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two states, a − b, paired by prompt."""

    a: str
    b: str
    key: str
    block: Block
    figure: Figure


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The states of a model side by side."""

    asked: Asked
    states: tuple[State, ...]
    answers: Mapping[str, Answers]
    """What each state gave, by its name."""
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    """What must not be overlooked, such as a state that refuses because it is broken."""
    notes: tuple[str, ...]
    memory: Figure | None = None
    """Peak memory, where the cost was asked for."""
    headline: str = ""
    """What is to be read before any figure, the first of the warnings; empty if nothing is."""


def evaluate(
    chat: Chat,
    asked: Asked,
    adapter: Adapter | None = None,
    planned: Plan | None = None,
    *,
    scorer: str = "normalised",
    judge: Judge | None = None,
    costs: bool = False,
    say: Say = print,
    progress: Progress = _unheard,
) -> Evaluation:
    """Ask every state the same, and compare.

    The model without adapter comes first, and what its refusals say is said before the others are
    asked.

    The model's weights are as before when this returns.

    Args:
        chat: The model.
        asked: From `asked_of`.
        adapter: An adapter of the model.
        planned: What is to become of the adapter.
        scorer: A name of `s3lora.lab.metrics.refusal.SCORERS`.
        judge: Scores the replies to harmful prompts, if given.
        costs: Whether size and latency are measured too.
        say: Takes a line of progress, or a warning that is known before the figures are.
        progress: Takes how many prompts are done.

    Raises:
        ParameterError: if the adapter does not fit the model.
        UnsupportedError: if the update of a module is not in the adapter's file alone.
    """
    plans = _plans(adapter, planned)
    patched = Patched(chat.model, adapter) if adapter else None
    states: list[State] = []
    given: dict[str, Answers] = {}
    mismatch = other_base(adapter, chat.reference, chat.model.config.to_dict()) if adapter else ""
    if mismatch:
        say(f"warning: {mismatch}")
    asking, headline = 2 * len(asked.tokens), ""
    for at, (name, done) in enumerate(plans):
        say(f"{name}: asking {len(asked.harmful)} harmful and {len(asked.harmless)} harmless")
        modules = left_by(adapter, done) if adapter and done else ()
        if patched:
            patched.apply(modules)
        given[name] = answers_of(chat, asked, _counting(progress, at, len(plans), asking, name))
        found = results(asked, given[name], scorer, judge)
        if costs:
            say(f"{name}: timing")
            found += _costs(chat, asked, patched, done)
        states.append(State(name, len(modules), tuple(found)))
        if at == 0 and (headline := little_to_restore(states[0])):
            say(f"warning: {headline}")
    if patched:
        patched.apply(())
    return Evaluation(
        asked,
        tuple(states),
        given,
        tuple(differences(states)),
        (
            *(each for each in (headline, mismatch) if each),
            *broken(states),
            *off_task(given, asked, scorer),
            *(left_out(adapter) if adapter else ()),
        ),
        tuple(notes(given, asked, scorer)),
        _memory() if costs else None,
        headline,
    )


def _counting(progress: Progress, at: int, states: int, asking: int, name: str) -> Advance:
    """What the asking of one state tells, told of all states together."""

    def advance(count: float) -> None:
        doing = "log-probabilities" if count <= asking / 2 else "replies"
        progress(at * asking + count, states * asking, f"{name}, {doing}")

    return advance


def _plans(adapter: Adapter | None, planned: Plan | None) -> list[tuple[str, Plan | None]]:
    """The states by name, and what becomes of the adapter in each; None where it is not there."""
    plans: list[tuple[str, Plan | None]] = [(BARE, None)]
    if adapter:
        plans.append((WITH, plan(adapter, ())))
        if planned:
            plans.append((PLANNED, planned))
    return plans


def _costs(chat: Chat, asked: Asked, patched: Patched | None, done: Plan | None) -> list[Result]:
    """The cost of the state that the model is in; the bare model is back afterwards."""
    from s3lora.lab.evaluation_cost import cost, cost_without, merged_latency

    merged = merged_latency(chat, asked)
    if not patched or not done:
        return cost_without(merged)
    patched.apply(())
    return cost(chat, asked, merged, patched.adapter, done)


def _memory() -> Figure:
    from s3lora.lab.evaluation_cost import peak

    return peak()


def differences(states: Sequence[State]) -> Iterator[Difference]:
    """Every later state less every earlier one, figure by figure."""
    for earlier, later in combinations(states, 2):
        for result in later.results:
            before = earlier.result(result.key)
            told = difference(result, before) if before else None
            if told:
                yield Difference(later.name, earlier.name, result.key, result.block, told)
