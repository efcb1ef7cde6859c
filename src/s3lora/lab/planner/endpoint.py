"""A model behind an OpenAI-compatible endpoint as a role."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from time import perf_counter
from typing import Any

from s3lora.lab.endpoints import KEY_FROM, Address, address_of, client, reason, redirected
from s3lora.lab.metrics.extras import needed
from s3lora.lab.planner.roles import Ending, Failed, Reply, Said, guessed, why
from s3lora.lab.planner.threads import side_by_side, within

ENDINGS: dict[object, Ending] = {"stop": "stop", "length": "length"}
"""What an endpoint says of the end of a reply, in our words."""


@dataclass(frozen=True)
class Endpoint:
    """Greedy (temperature 0), and safe to share among threads.

    The client repeats a request after 429, 408, 409, 5xx, a broken connection and a timeout, with
    growing pauses or as long as the endpoint asks for.
    """

    address: str = field(repr=False)
    """Base address, such as "http://localhost:8000/v1"; a password in it is not shown."""
    model: str
    """The name that the endpoint knows the model by."""
    key: str | None = field(default=None, repr=False)
    """Given, or else read from the variable `key_from`."""
    key_from: str = KEY_FROM
    """Name of the environment variable with the key."""
    timeout: float = 60.0
    """Seconds that one request may be silent."""
    retries: int = 3
    """How often a request is repeated."""
    pause: float = 10.0
    """Seconds between two requests; a prompt may take `timeout` and this for each request."""
    parallel: int = 4
    """How many prompts are asked at a time."""

    def __post_init__(self) -> None:
        """Refuse what can never work.

        Raises:
            ParameterError: if openai is missing, or the address is none of the web.
        """
        needed("openai")
        address_of(self.address)

    @property
    def label(self) -> str:
        """The model and where it is."""
        return f"{self.model} at {self._address.shown}"

    def ask(self, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        """A reply to each prompt; several are asked at the same time."""
        create = self._client.chat.completions.create  # here, so that threads share one client
        jobs = [partial(self._ask_one, create, system, each, new_tokens) for each in prompts]
        return side_by_side(jobs, self.parallel)

    def _ask_one(
        self, create: Callable[..., Any], system: str, prompt: str, new_tokens: int
    ) -> Reply:
        start = perf_counter()
        request = partial(
            create,
            model=self.model,
            messages=[
                {"role": "system", "content": system},
                {"role": "user", "content": prompt},
            ],
            temperature=0,
            max_tokens=new_tokens,
        )
        most = (self.timeout + self.pause) * (self.retries + 1)
        try:  # the client's own limit is one of silence: an endpoint that drips gets past it
            answer = within(most, request)
        except Exception as error:  # of the client, of the connection, or of what reads the body
            text = self._address.without_secrets(self._why(error), self._key)
            return Failed(reason(text), perf_counter() - start)
        return said_in(answer, system + prompt, perf_counter() - start)

    def _why(self, error: Exception) -> str:
        """An error of the client as a reason."""
        openai = needed("openai")
        times = f"asked {self.retries + 1} times" if self.retries else "asked once"
        if target := redirected(error):
            return f"it redirects to {target}, and nothing was sent there"
        if isinstance(error, openai.APITimeoutError):
            return f"no answer within {self.timeout:g} s, {times}"
        if isinstance(error, openai.APIConnectionError):
            return f"no connection, or it broke off, {times}"
        if isinstance(error, openai.RateLimitError):
            return f"it takes no more requests for now (429), {times}"
        if isinstance(
            error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError
        ):
            return (
                f"it does not take this key or model (check ${self.key_from}): {self._named(error)}"
            )
        if isinstance(error, ValueError):
            return "the answer is no JSON, or only the beginning of it"
        if type(error) is openai.OpenAIError:  # raised here, about the body of the answer
            return str(error)
        return self._named(error)

    def _named(self, error: Exception) -> str:
        """An error with its kind; secrets go before it is shortened, which could cut one in two."""
        if isinstance(error, needed("openai").APIError):
            text = self._address.without_secrets(str(error), self._key)
            return reason(f"{type(error).__name__}: {text}")
        return why(error)

    @property
    def _key(self) -> str | None:
        return self.key or os.environ.get(self.key_from)

    @cached_property
    def _address(self) -> Address:
        return address_of(self.address)

    @cached_property
    def _client(self) -> Any:
        return client(self._address, self._key, timeout=self.timeout, retries=self.retries)


def said_in(answer: Any, prompt: str, seconds: float) -> Reply:
    """The reply in a chat completion, or what is wrong with it.

    Args:
        answer: As the client gives it; a server may send anything.
        prompt: All that was sent, to guess its tokens if the server does not count them.
        seconds: How long it took.
    """
    try:
        choice = answer.choices[0]
        text, reason = choice.message.content, choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        return Failed("the answer has no message", seconds)
    if reason == "content_filter":
        return Failed("the endpoint filtered the reply", seconds)
    if not isinstance(text, str | None):
        return Failed("the message of the answer is no text", seconds)
    text = (text or "").strip()
    usage = getattr(answer, "usage", None)
    read, written = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Said(
        text,
        guessed(prompt) if read is None else read,
        guessed(text) if written is None else written,
        seconds,
        ENDINGS.get(reason, "unknown"),
        read is None or written is None,
    )


def _count(usage: Any, name: str) -> int | None:
    told = getattr(usage, name, None)
    return told if isinstance(told, int) and told >= 0 else None
