"""What became of a question: the plan, the evidence, the answer, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from s3lora.lab.planner.evidence import Evidence
from s3lora.lab.planner.grammar import ParsedPlan
from s3lora.lab.planner.roles import Failed, Said

Outcome = Literal[
    "answered", "planned", "refused", "no plan", "faulty plan", "cut off", "out of budget",
    "planner failed", "no answer", "solver refused", "solver failed",
]  # fmt: skip
"""How a run ends."""

OUTCOMES: Mapping[Outcome, str] = {
    "answered": "the solver gave an answer, right or wrong",
    "planned": "there is a plan, and it was not to be carried out",
    "refused": "the planner declined, by keywords, without a step of a plan",
    "no plan": "the planner wrote nothing, or nothing that is a step",
    "faulty plan": "there are steps that cannot be run",
    "cut off": "the plan or the answer ended at the limit of tokens",
    "out of budget": "steps, tokens or time ran out",
    "planner failed": "the planner gave no reply, so nothing is known of its plan",
    "no answer": "the solver wrote nothing",
    "solver refused": "there was a plan and it was carried out, then the solver declined",
    "solver failed": "the solver gave no reply",
}
"""What each of them means; none but the first holds an answer to be counted as complete."""

Part = Literal["planner", "worker", "solver"]
"""The roles of a run."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one role took."""

    calls: int = 0
    """How often its model was asked."""
    read: int = 0
    """Tokens."""
    written: int = 0
    """Tokens."""
    seconds: float = 0.0
    """Of a model, what its replies took; of the worker, tools that ask no model are included.

    Steps at the same time add up.
    """
    estimated: bool = False
    """Whether some of the tokens are a guess."""

    def plus(self, reply: Said | Failed | None, seconds: float) -> Spent:
        """With one more call, or with one more use of a tool that asks no model."""
        said = reply if isinstance(reply, Said) else None
        return Spent(
            self.calls + (reply is not None),
            self.read + (said.read if said else 0),
            self.written + (said.written if said else 0),
            self.seconds + seconds,
            self.estimated or (said is not None and said.estimated),
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """One run, from the question to the answer or to where it ended."""

    question: str
    outcome: Outcome
    reason: str
    """Why it ended so, as a sentence without its full stop."""
    text: str | None
    """What the planner wrote; None if there is no reply."""
    plan: ParsedPlan | None
    evidence: Mapping[int, Evidence]
    """By the id of its step."""
    answer: str | None
    """What the solver wrote; None if it was not asked or gave no reply."""
    spent: Mapping[Part, Spent]
    seconds: float
    """From the question to the end; of a batch, the time of its own part."""

    @property
    def tokens(self) -> int:
        """Read and written by all roles."""
        return sum(each.read + each.written for each in self.spent.values())
