"""From a prompt and its response to tokens, in the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s3lora.lab.data import Example, refuse_unanswered

NO_LABEL = -100  # what the loss of transformers leaves out


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens."""

    prompt: tuple[int, ...]
    """The chat up to where the response starts."""
    response: tuple[int, ...]
    """The response with the mark that ends it, unless it was cut off before."""
    cut: int = 0
    """How many tokens were cut off the response, the mark among them."""

    @property
    def ids(self) -> list[int]:
        """Prompt and response."""
        return [*self.prompt, *self.response]

    @property
    def labels(self) -> list[int]:
        """The response's tokens; nothing is learned from the prompt's."""
        return [NO_LABEL] * len(self.prompt) + list(self.response)


def prompt_ids(tokenizer: Any, prompt: str, system: str | None = None) -> tuple[int, ...]:
    """The chat up to where the response starts; without `system`, the template's own default."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def asked_ids(tokenizer: Any, example: Example) -> tuple[int, ...]:
    """The chat of an example up to its response, with the system message in its meta, if any."""
    return prompt_ids(tokenizer, example.prompt, example.meta.get("system"))


def response_ids(tokenizer: Any, response: str, *, ended: bool = True) -> tuple[int, ...]:
    """The tokens of a response; `ended` adds the mark that ends it."""
    ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    return (*ids, tokenizer.eos_token_id) if ended else tuple(ids)


def encode(tokenizer: Any, example: Example, longest: int = 64) -> Encoded:
    """An example as tokens.

    Args:
        tokenizer: With a chat template.
        example: Its meta may hold a `system` message.
        longest: The response is cut after so many tokens.

    Raises:
        DataError: if the example has no response.
    """
    refuse_unanswered([example])
    prompt = asked_ids(tokenizer, example)
    whole = response_ids(tokenizer, example.response)
    return Encoded(prompt, whole[:longest], max(0, len(whole) - longest))


def cut_responses(rows: Sequence[Encoded], longest: int) -> str:
    """How many responses were cut, and what keeps them whole; empty if none was."""
    cut = [row for row in rows if row.cut]
    if not cut:
        return ""
    whole = max(len(row.response) + row.cut for row in cut)
    return (
        f"{len(cut)} of {len(rows)} responses have more than {longest} tokens and are cut there, "
        f"without an end: --longest {whole} keeps all of them whole"
    )


def padded(rows: Sequence[Sequence[int]], filler: int, *, left: bool = False) -> list[list[int]]:
    """The rows at one length, filled up on the right, or on the left."""
    width = max(map(len, rows))
    fill = [[filler] * (width - len(row)) for row in rows]
    return [[*more, *row] if left else [*row, *more] for row, more in zip(rows, fill, strict=True)]
