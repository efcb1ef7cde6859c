"""The model API `s3lora/peft`: a base model, an adapter, and a plan that is applied in memory.

    inspect eval s3lora/planner --model s3lora/peft -M base=B -M adapter=A -M plan=plan.json

Models of one base share its memory. Nothing is saved: the weights are those that a pruned adapter
would give. Replies are greedy whatever temperature a task asks for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    StopReason,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from s3lora.adapter import Adapter
from s3lora.errors import ParameterError
from s3lora.io import open_adapter
from s3lora.io.checkpoint import Checkpoint
from s3lora.lab.evaluation_plan import planned_again, read_plan
from s3lora.lab.generate import Reply
from s3lora.lab.models import Chat, model_folder
from s3lora.lab.planner.local import shared
from s3lora.lab.suites.batches import Batches, Ids
from s3lora.lab.suites.bridge import SECONDS
from s3lora.lab.suites.prerequisite import shown_by_inspect
from s3lora.lab.suites.tools import chat_text, message_of
from s3lora.plan import Plan, plan

log = getLogger(__name__)

PEFT = "peft"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCH = 50
"""Prompts at a time."""
USUAL_TOKENS = 512
"""Longest reply where a task does not say."""
SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments of the model, `-M NAME=VALUE`."""

    base: str
    """smollm2, tiny, a checkpoint folder, or a name on a hub."""
    adapter: str | None = None
    plan: str | None = None
    """JSON of `s3lora prune --dry-run --format json`, a pruned adapter or its s3lora.json."""
    weights: str | None = None
    """Checkpoint folder of the base, for an edit that needs it; the model's own if None."""
    aligned: str | None = None
    """Checkpoint folder of the aligned model, likewise."""
    safe: str | None = None
    """The adapter that the plan merges with."""
    dtype: str = "float32"
    batch: int = BATCH
    """Prompts at a time, at most."""


def given_of(values: Mapping[str, Any]) -> Given:
    """The arguments by name.

    Raises:
        ParameterError: if one is unknown, missing or does not fit another.
    """
    names = ", ".join(Given.__dataclass_fields__)
    unknown = sorted(values.keys() - Given.__dataclass_fields__.keys())
    if unknown:
        raise ParameterError(f"s3lora/peft has no argument {unknown[0]!r}", hint=f"-M {names}")
    if not values.get("base"):
        raise ParameterError("s3lora/peft needs a base model", hint="-M base=MODEL")
    given = Given(**values)
    if given.plan and not given.adapter:
        raise ParameterError("a plan is about an adapter", hint="name it: -M adapter=A")
    if given.dtype not in DTYPES:
        raise ParameterError(f"no dtype {given.dtype!r}", hint=f"one of {', '.join(DTYPES)}")
    if not isinstance(given.batch, int) or given.batch < 1:
        raise ParameterError(f"a batch of {given.batch}", hint="-M batch=N, at least 1")
    return given


class Loaded:
    """A model in memory, spoken to with what a plan leaves of an adapter in its weights.

    Models of the same base and dtype share its memory, whatever their adapters: only one of them
    speaks at a time.
    """

    def __init__(self, given: Given) -> None:
        """Load it, unless it is there.

        Raises:
            S3LoraError: if a part of it is not there, broken or does not fit another.
        """
        adapter = open_adapter(given.adapter) if given.adapter else None
        planned = _planned(given, adapter) if adapter else None
        self.shared = shared(given.base, DTYPES[given.dtype])
        self.role = self.shared.role(adapter, planned)
        self.batch = given.batch

    @property
    def chat(self) -> Chat:
        """The model and its tokenizer."""
        return self.shared.chat

    @property
    def modules(self) -> int:
        """How many LoRA modules it has when it speaks."""
        return len(self.role.modules)

    @property
    def longest(self) -> int | None:
        """Positions that the model has; None where its config does not say."""
        return getattr(self.chat.model.config, "max_position_embeddings", None)

    def answer(self, prompts: Sequence[Ids], new_tokens: int) -> list[Reply]:
        """Greedy replies to prompts of tokens."""
        return self.shared.replies(self.role, prompts, new_tokens, self.batch)[0]


def _planned(given: Given, adapter: Adapter) -> Plan:
    """What becomes of the adapter; nothing without a plan."""
    if not given.plan:
        return plan(adapter, ())
    written = read_plan(Path(given.plan))
    weights: dict[str, Any] = {}
    if written.edit not in ("drop", "zero", "merge"):
        own = Path(given.weights or model_folder(given.base))
        weights["base"] = Checkpoint(own) if own.is_dir() else None
        weights["aligned"] = Checkpoint(Path(given.aligned)) if given.aligned else None
    safe = open_adapter(given.safe) if given.safe else None
    return planned_again(written, adapter, safe=safe, **weights)


class PeftAPI(ModelAPI):
    """A base model with an adapter, pruned in memory or not; greedy and in batches."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  (Inspect's own signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        with shown_by_inspect():
            if model_name != PEFT:
                raise ParameterError(f"no model s3lora/{model_name}", hint="s3lora/peft")
            self.loaded = Loaded(given_of(model_args))
        self.batches = Batches(self.loaded.answer)
        self._told = False

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002  (Inspect's name)
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """A greedy reply; a chat that is longer than the model's positions has none."""
        self._tell(config)
        told = [] if tool_choice == "none" else tools
        ids = self._ids(input, told)
        longest = self.loaded.longest
        room = longest - len(ids) if longest else None
        if room is not None and room < 1:
            return self._too_long(len(ids), room)
        wanted = config.max_tokens or USUAL_TOKENS
        start = time.perf_counter()
        reply, share = await self.batches.ask(ids, min(wanted, room) if room else wanted)
        output = self._output(reply, len(ids), told, config.stop_seqs or [])
        output.time = time.perf_counter() - start
        output.metadata = {"entropy": reply.entropy, SECONDS: share}
        return output

    def _ids(self, messages: list[ChatMessage], tools: list[ToolInfo]) -> Ids:
        tokenizer = self.loaded.chat.tokenizer
        text = chat_text(tokenizer, messages, tools)
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _output(
        self, reply: Reply, read: int, tools: list[ToolInfo], stops: list[str]
    ) -> ModelOutput:
        text, stopped = cut(reply.text, stops)
        message = message_of(text, self.model_name, tools)
        reason: StopReason = "stop" if reply.ended or stopped else "max_tokens"
        choice = ChatCompletionChoice(
            message=message, stop_reason="tool_calls" if message.tool_calls else reason
        )
        return ModelOutput(
            model=self.model_name,
            choices=[choice],
            usage=_usage(read, reply.tokens),
        )

    def _too_long(self, read: int, room: int) -> ModelOutput:
        told = f"the chat has {read} tokens, the model {read + room} positions"
        output = ModelOutput.from_content(self.model_name, "", "model_length", error=told)
        output.usage = _usage(read, 0)
        return output

    def _tell(self, config: GenerateConfig) -> None:
        """Say once that sampling is not done."""
        if not self._told and config.temperature:
            log.warning("s3lora/peft is greedy: %s are left out", ", ".join(SAMPLING))
            self._told = True

    def max_tokens(self) -> int:
        """Longest reply where a task does not say."""
        return USUAL_TOKENS

    def max_connections(self) -> int:
        """Requests at a time: a whole batch."""
        return self.loaded.batch

    def collapse_user_messages(self) -> bool:
        """Chat templates want users and assistants to take turns."""
        return True

    def close(self) -> None:
        """Let the model go."""
        del self.loaded, self.batches


peft = modelapi(name="s3lora")(PeftAPI)
"""What Inspect makes models of: the decorator leaves a function where a class was."""


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the first of the stop sequences, and whether there was one."""
    places = [text.find(stop) for stop in stops if stop and stop in text]
    return (text[: min(places)], True) if places else (text, False)


def _usage(read: int, written: int) -> ModelUsage:
    return ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)
