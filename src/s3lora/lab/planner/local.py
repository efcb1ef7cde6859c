"""Roles that share one loaded model, each with an adapter of its own, pruned or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from time import perf_counter
from weakref import WeakValueDictionary, finalize

import torch

from s3lora.adapter import Adapter, LoraModule
from s3lora.lab.chat import prompt_ids
from s3lora.lab.evaluation_plan import left_by
from s3lora.lab.generate import Reply as Written
from s3lora.lab.generate import replies
from s3lora.lab.models import Chat, load_chat
from s3lora.lab.patched import Patched
from s3lora.lab.planner.roles import Ending, Failed, Reply, Said
from s3lora.lab.planner.threads import left_behind
from s3lora.plan import Plan, plan

Ids = tuple[int, ...]

BATCH = 50
"""Prompts at a time."""

LONGEST_END = 60.0
"""Seconds that the end of the process waits for a token."""


class Shared:
    """One model in memory; the updates of whoever speaks are put in before it speaks.

    Only one role speaks at a time. The weights are formed anew from those that were loaded, so a
    role says what a model of its own would say. Replies that nobody waits for any more are given up
    at the next token.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self._lock = Lock()
        self._patched: dict[str, Patched] = {}
        self._now: Patched | None = None
        # A process that ends while a thread computes is aborted: wait until nobody speaks.
        finalize(self, self._lock.acquire, timeout=LONGEST_END)

    def role(self, adapter: Adapter | None = None, planned: Plan | None = None) -> Local:
        """A role of the model with an adapter as a plan leaves it; without adapter, the model.

        Args:
            adapter: An adapter of the model.
            planned: What becomes of it; nothing if None.

        Raises:
            ParameterError: if the adapter does not fit the model.
            UnsupportedError: if its files alone do not give the update of a module that stays.
        """
        if adapter is None:
            return Local(self, self.chat.reference, None, ())
        modules = left_by(adapter, planned or plan(adapter, ()))
        whole = f"{len(modules)} of " if planned else ""
        told = f"{adapter.ref}, {whole}{len(adapter.names)} modules"
        return Local(self, f"{self.chat.reference} with {told}", self._patched_by(adapter), modules)

    def bare(self) -> None:
        """Give the model its own weights back."""
        with self._lock:
            self._take_out()

    def ask(self, role: Local, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        """Greedy replies of a role to a batch of prompts."""
        tokenizer = self.chat.tokenizer
        ids = [prompt_ids(tokenizer, prompt, system) for prompt in prompts]
        most = getattr(self.chat.model.config, "max_position_embeddings", None)
        fits = [most is None or len(each) + new_tokens <= most for each in ids]
        short = [each for each, fit in zip(ids, fits, strict=True) if fit]
        told, took = self.replies(role, short, new_tokens)
        written, seconds = iter(told), took / max(len(short), 1)
        found: list[Reply] = []
        for each, fit in zip(ids, fits, strict=True):
            if not fit:
                why = f"{len(each)} tokens to read and {new_tokens} to write are more than {most}"
                found.append(Failed(f"the prompt is too long for the model: {why}"))
                continue
            reply = next(written)
            ended: Ending = "stop" if reply.ended else "length"
            found.append(Said(reply.text, len(each), reply.tokens, seconds, ended))
        return found

    def replies(
        self, role: Local, prompts: Sequence[Ids], new_tokens: int, batch: int = BATCH
    ) -> tuple[list[Written], float]:
        """Greedy replies of a role to prompts of tokens, and the seconds that they took."""
        with self._lock:
            start = perf_counter()
            self._put_in(role)
            with self._stopped_when_left_behind():
                written = replies(self.chat, prompts, new_tokens, batch)
            return written, perf_counter() - start

    def _patched_by(self, adapter: Adapter) -> Patched:
        """The model as an adapter changes it; made while the model has its own weights."""
        with self._lock:
            known = self._patched.get(adapter.digest)
            if known is None:
                self._take_out()
                known = self._patched[adapter.digest] = Patched(self.chat.model, adapter)
            return known

    @contextmanager
    def _stopped_when_left_behind(self) -> Iterator[None]:
        """Stop the model before its next token once nobody waits for this thread."""

        def check(*_: object) -> None:
            if left_behind():
                raise TimeoutError("nobody waits for the reply any more")

        hook = self.chat.model.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()

    def _put_in(self, role: Local) -> None:
        if self._now is not role.patched:
            self._take_out()
        if role.patched is not None:
            self._now = role.patched
            role.patched.apply(role.modules)

    def _take_out(self) -> None:
        if self._now is not None:
            self._now.apply(())
        self._now = None


_in_use: WeakValueDictionary[tuple[str, str], Shared] = WeakValueDictionary()
_loading = Lock()


def shared(model: str, dtype: torch.dtype = torch.float32) -> Shared:
    """A model in memory; the one that is there already, as long as somebody uses it.

    Args:
        model: smollm2, tiny, a checkpoint folder, or a name on a hub.
        dtype: Of its weights.

    Raises:
        S3LoraError: if it cannot be loaded.
    """
    with _loading:
        found = _in_use.get((model, str(dtype)))
        if found is None:
            found = _in_use[model, str(dtype)] = Shared(load_chat(model, dtype=dtype))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """A role of a model that is in memory; made by `Shared.role`."""

    shared: Shared
    label: str
    patched: Patched | None
    modules: tuple[LoraModule, ...]
    """The updates that the model has when it speaks in this role."""

    def ask(self, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        """Greedy replies in one batch; waits until no other role of the model speaks."""
        return self.shared.ask(self, system, prompts, new_tokens)
