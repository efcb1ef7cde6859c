"""Requests that arrive one by one, answered in batches: whatever is ready goes, nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import anyio
from anyio import to_thread

from s3lora.lab.generate import Reply

Ids = tuple[int, ...]
Run = Callable[[Sequence[Ids], int], list[Reply]]
"""From prompts of tokens and the longest reply to greedy replies, in order."""


@dataclass(slots=True, eq=False)
class Request:
    """One prompt that waits for its reply."""

    ids: Ids
    new_tokens: int
    reply: Reply | None = None
    seconds: float = 0.0
    """An equal share of what its batch took."""
    error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether it was in a batch."""
        return self.reply is not None or self.error is not None


class Batches:
    """The requests that come in while one batch runs make the next one.

    Whoever gets the lock takes along all that wait. A batch runs in a thread, so that others can
    queue meanwhile; if it fails, each of its requests does.
    """

    def __init__(self, run: Run) -> None:
        self.sizes: list[int] = []  # of the batches so far
        self._run = run
        self._waiting: list[Request] = []
        self._lock = anyio.Lock()

    async def ask(self, ids: Ids, new_tokens: int) -> tuple[Reply, float]:
        """The reply to a prompt, and its share of the seconds that the batch took.

        Raises:
            Exception: whatever driving the model raised for the batch that it was in.
        """
        request = Request(ids, new_tokens)
        self._waiting.append(request)
        try:
            async with self._lock:
                if not request.done:
                    batch, self._waiting = self._waiting, []
                    await to_thread.run_sync(self._answer, batch)
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        if request.error is not None:
            raise request.error
        assert request.reply is not None  # noqa: S101  (_answer leaves nothing undone)
        return request.reply, request.seconds

    def _answer(self, batch: Sequence[Request]) -> None:
        """Drive the model once for each longest reply that is asked for."""
        self.sizes.append(len(batch))
        for new_tokens in {request.new_tokens for request in batch}:
            part = [request for request in batch if request.new_tokens == new_tokens]
            start = perf_counter()
            try:
                replies = self._run([request.ids for request in part], new_tokens)
                seconds = (perf_counter() - start) / len(part)
                for request, reply in zip(part, replies, strict=True):
                    request.reply, request.seconds = reply, seconds
            except Exception as error:  # out of memory, a broken model: the sample tells
                for request in part:
                    request.error = error
