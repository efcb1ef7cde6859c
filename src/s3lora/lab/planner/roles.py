"""Who is asked in a run: a role takes prompts and gives replies, or the reasons for none.

A failure of a model or an endpoint is a value. It ends a run or becomes evidence, and nothing
takes it for a reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter
from typing import Literal, Protocol, TypeAlias

from s3lora.errors import S3LoraError
from s3lora.lab.endpoints import hidden, reason
from s3lora.lab.planner.threads import within

Ending = Literal["stop", "length", "unknown"]
"""Why a reply ended: by itself, cut off at the limit of tokens, or nobody says."""

BYTES_A_TOKEN = 4
"""The guess for text whose tokens nobody counts."""


@dataclass(frozen=True, slots=True)
class Said:
    """One reply; its text may be empty."""

    text: str
    read: int
    """Tokens of the prompt, with its system message."""
    written: int
    """Tokens of the reply."""
    seconds: float
    """Of a batch, an equal share."""
    ended: Ending = "stop"
    estimated: bool = False
    """Whether the tokens are a guess, because whoever replied does not count them."""

    @property
    def cut_off(self) -> bool:
        """Whether it ended at the limit of tokens."""
        return self.ended == "length"


@dataclass(frozen=True, slots=True)
class Failed:
    """No reply."""

    reason: str
    """Why, as a sentence without its full stop."""
    seconds: float = 0.0


Reply: TypeAlias = Said | Failed


class Role(Protocol):
    """A model that is asked for plans, for evidence or for answers."""

    @property
    def label(self) -> str:
        """What people should call it."""

    def ask(self, system: str, prompts: Sequence[str], new_tokens: int) -> Sequence[Reply]:
        """A greedy reply to each prompt, in their order, or a failure in its place.

        Args:
            system: The system message of all prompts.
            prompts: What the user says.
            new_tokens: Longest reply, in tokens.
        """


def ask(
    role: Role, system: str, prompts: Sequence[str], new_tokens: int, seconds: float
) -> list[Reply]:
    """The same within a limit of time; whatever the role does, there is one value a prompt."""
    if not prompts:
        return []
    start = perf_counter()
    try:
        replies = list(within(seconds, partial(role.ask, system, prompts, new_tokens)))
        if len(replies) == len(prompts):
            return replies
        reason = f"it gave {len(replies)} replies to {len(prompts)} prompts"
    except Exception as error:  # a role is whatever a caller gives
        reason = why(error)
    failed = Failed(reason, (perf_counter() - start) / len(prompts))
    return [failed] * len(prompts)


def why(error: Exception) -> str:
    """An error as a reason, in one line; without the key of the environment, if it holds that."""
    if isinstance(error, S3LoraError):
        text = f"{error}; {error.hint}"
    elif isinstance(error, TimeoutError) and str(error):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return reason(hidden(text))


def guessed(text: str) -> int:
    """About how many tokens a text has."""
    return ceil(len(text.encode(errors="replace")) / BYTES_A_TOKEN)
