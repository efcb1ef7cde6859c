"""Roles and tools that do as they are told, for tests of the planner's loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from s3lora.lab.planner.roles import Reply, Said
from s3lora.lab.planner.tools import Result

TWO_STEPS = (
    "Plan: Find the author.\n#E1 = Search[author of Grey Lantern]\n"
    "Plan: Find the birthplace.\n#E2 = Search[birthplace of #E1]"
)


class Scripted:
    """Gives its replies one after the other, the last one over and over."""

    label = "scripted"

    def __init__(self, *replies: str | Reply | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[tuple[str, str, int]] = []
        self.batches: list[int] = []

    def ask(self, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        self.batches.append(len(prompts))
        return [self._one(system, prompt, new_tokens) for prompt in prompts]

    def _one(self, system: str, prompt: str, new_tokens: int) -> Reply:
        self.asked.append((system, prompt, new_tokens))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return said(reply) if isinstance(reply, str) else reply


class Sleeper:
    """Takes its time."""

    label = "sleeper"

    def __init__(self, seconds: float) -> None:
        self.pause = seconds

    def ask(self, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        time.sleep(self.pause)
        return [said("late")] * len(prompts)


class Told:
    """A tool that is a function."""

    def __init__(
        self, function: Callable[[str], str], seconds: float = 5.0, new_tokens: int = 0
    ) -> None:
        self.function = function
        self.seconds = seconds
        self.new_tokens = new_tokens
        self.inputs: list[str] = []

    def use(self, text: str, new_tokens: int) -> Result:
        self.inputs.append(text)
        return Result(self.function(text))


def said(text: str, read: int = 10, written: int = 5, seconds: float = 0.25, **more) -> Said:
    return Said(text, read, written, seconds, **more)


def steps(*calls: str) -> str:
    """A plan of these calls, such as Search[a]."""
    return "\n".join(
        f"Plan: Do step {number}.\n#E{number} = {call}" for number, call in enumerate(calls, 1)
    )
