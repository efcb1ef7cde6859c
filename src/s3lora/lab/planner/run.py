"""A run while it goes on: what it has found, what it has spent, and whether it may go on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from s3lora.errors import ParameterError
from s3lora.lab.planner.evidence import Evidence
from s3lora.lab.planner.grammar import MAX_STEPS, ParsedPlan
from s3lora.lab.planner.roles import Failed, Reply, Said
from s3lora.lab.planner.trace import Outcome, Part, Spent, Trace


@dataclass(frozen=True, slots=True)
class Budget:
    """What one run may take.

    Tokens are counted after each call and what may be written is limited before it, so a run can
    pass the limit by the prompts of the calls that are under way.
    """

    steps: int = MAX_STEPS
    """Of the plan."""
    tokens: int = 8000
    """Read and written by all roles together."""
    seconds: float = 300.0
    """From the question to the answer."""

    def __post_init__(self) -> None:
        """Refuse a budget that allows nothing.

        Raises:
            ParameterError: if a limit is not above 0.
        """
        for name in ("steps", "tokens", "seconds"):
            if not getattr(self, name) > 0:  # NaN is not
                raise ParameterError(
                    f"a budget of {getattr(self, name)} {name}", hint="give a number above 0"
                )


class Run:
    """Collects what becomes of one question."""

    def __init__(self, question: str, budget: Budget) -> None:
        self.question = question
        self.budget = budget
        self.text: str | None = None
        self.plan: ParsedPlan | None = None
        self.evidence: dict[int, Evidence] = {}
        self.answer: str | None = None
        self.outcome: Outcome | None = None
        self.reason = ""
        self._spent: dict[Part, Spent] = {}
        self._tokens = 0
        self._reserved = 0
        self._seconds = 0.0

    @property
    def tokens_left(self) -> int:
        """How many tokens may still be read or written."""
        return max(0, self.budget.tokens - self._tokens - self._reserved)

    @property
    def seconds_left(self) -> float:
        """How much time is left."""
        return max(0.0, self.budget.seconds - self._seconds)

    def end(self, outcome: Outcome, reason: str) -> None:
        """The run is over."""
        self.outcome, self.reason = outcome, reason

    def may_go_on(self, doing: str) -> bool:
        """Whether there are tokens and time left to do something; if not, the run is over."""
        if self.outcome is None and self.tokens_left == 0:
            told = f"{self._tokens} of {self.budget.tokens} tokens were used"
            self.end("out of budget", f"{told} before {doing}")
        elif self.outcome is None and self.seconds_left == 0:
            told = f"{self._seconds:.1f} of {self.budget.seconds:g} seconds were used"
            self.end("out of budget", f"{told} before {doing}")
        return self.outcome is None

    def reserve(self, tokens: int) -> int:
        """As many of these tokens as are left, kept for a call until `take` counts it."""
        granted = min(tokens, self.tokens_left)
        self._reserved += granted
        return granted

    def spend(self, part: Part, reply: Reply) -> None:
        """Count the call of a role, and the time that it took."""
        self._spent[part] = self._spent.get(part, Spent()).plus(reply, reply.seconds)
        self._seconds += reply.seconds
        if not isinstance(reply, Failed):
            self._tokens += reply.read + reply.written

    def take(self, found: Iterable[tuple[int, Evidence, int]], seconds: float) -> None:
        """Count the steps of one level.

        A call that failed counts with all it was granted: nobody knows what it wrote.

        Args:
            found: Id, evidence and reserved tokens of each step.
            seconds: What they took side by side.
        """
        for number, evidence, granted in found:
            self.evidence[number] = evidence
            reply = evidence.reply
            took = reply.seconds if isinstance(reply, Said) else evidence.seconds
            self._spent["worker"] = self._spent.get("worker", Spent()).plus(reply, took)
            if isinstance(reply, Failed):
                self._tokens += granted
            elif reply is not None:
                self._tokens += reply.read + reply.written
        self._reserved = 0
        self._seconds += seconds

    def trace(self) -> Trace:
        """What became of it; only of a run that is over."""
        assert self.outcome is not None  # noqa: S101
        return Trace(
            self.question,
            self.outcome,
            self.reason,
            self.text,
            self.plan,
            dict(self.evidence),
            self.answer,
            dict(self._spent),
            self._seconds,
        )
