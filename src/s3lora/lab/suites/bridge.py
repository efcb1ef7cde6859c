"""Models of Inspect as roles of the loop: the loop in a thread, its models in the event loop.

The loop is the one of `s3lora plan`; it asks from threads of its own, and each request becomes a
task of the sample's event loop. Requests of many samples meet there, so a model that batches has
something to batch. When the sample is over, so are its requests, and the loop soon after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from anyio import CapacityLimiter, create_task_group, to_thread
from anyio.from_thread import BlockingPortal
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
)
from inspect_ai.util import LimitExceededError

from s3lora.lab.endpoints import hidden, reason
from s3lora.lab.planner.grammar import TOOLS
from s3lora.lab.planner.loop import Agent
from s3lora.lab.planner.roles import Ending, Failed, Reply, Said, guessed, why
from s3lora.lab.planner.run import Budget
from s3lora.lab.planner.search import Index
from s3lora.lab.planner.threads import left_behind
from s3lora.lab.planner.tools import LLM, Calculator, Search, Tool, usual_tools
from s3lora.lab.planner.trace import Part, Trace

ENDINGS: Mapping[str, Ending] = {"stop": "stop", "max_tokens": "length", "model_length": "length"}
"""What Inspect says of the end of a reply, in the loop's words."""

CHECK = 0.1
"""Seconds between two looks whether anybody still waits for a reply."""

SECONDS = "seconds"
"""Where a provider that batches says, in an output's metadata, what its share of the time was."""


Models = Mapping[Part, tuple[Model, bool]]
"""The model of each role, and whether the longest plan is that of the task, `--max-tokens`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may take."""

    budget: Budget
    """Its seconds are those of the clock, with all waiting for other samples."""
    plan_tokens: int


class InspectRole:
    """A model of Inspect as the loop's planner, worker or solver; made within a sample."""

    def __init__(self, model: Model, task_limit: bool, portal: BlockingPortal) -> None:
        """Take the model along with all that Inspect keeps about the sample.

        Args:
            model: Any model.
            task_limit: Whether the longest reply is that of the task's config, `--max-tokens`;
                for the tested model alone.
            portal: To the event loop of the sample.
        """
        self.label = str(model)
        self.limit: LimitExceededError | None = None
        self._model = model
        self._portal = portal
        self._task_limit = task_limit
        self._context = copy_context()  # other threads know nothing of the sample

    def ask(self, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        """A reply to each prompt, all asked at the same time; called from any thread."""
        ask = partial(self._portal.start_task_soon, self._ask_all, system, prompts, new_tokens)
        asked = self._context.copy().run(ask)
        while not wait([asked], CHECK).done:
            if left_behind():
                asked.cancel()
                raise TimeoutError("nobody waits for the reply any more")
        return asked.result()

    async def _ask_all(self, system: str, prompts: Sequence[str], new_tokens: int) -> list[Reply]:
        found: dict[int, Reply] = {}

        async def ask_one(at: int) -> None:
            found[at] = await self._ask_one(system, prompts[at], new_tokens)

        async with create_task_group() as group:
            for at in range(len(prompts)):
                group.start_soon(ask_one, at)
        return [found[at] for at in range(len(prompts))]

    async def _ask_one(self, system: str, prompt: str, new_tokens: int) -> Reply:
        chat: list[ChatMessage] = [
            ChatMessageSystem(content=system),
            ChatMessageUser(content=prompt),
        ]
        longest = None if self._task_limit else new_tokens
        start = perf_counter()
        try:
            output = await self._model.generate(
                chat, config=GenerateConfig(max_tokens=longest, temperature=0)
            )
        except Exception as error:  # whatever a provider raises
            if isinstance(error, LimitExceededError):
                self.limit = error
            return Failed(why(error), perf_counter() - start)
        return reply_in(output, system + prompt, perf_counter() - start)


def reply_in(output: ModelOutput, prompt: str, seconds: float) -> Reply:
    """The reply in an output, or what is wrong with it.

    Args:
        output: Of any provider.
        prompt: All that was sent, to guess its tokens if nobody counted them.
        seconds: How long it took, with all waiting.
    """
    told = (output.metadata or {}).get(SECONDS)
    took = float(told) if isinstance(told, int | float) else seconds
    if not output.choices:
        return Failed(_error(output) or "the model gave no reply", took)
    text, stopped = output.completion, output.stop_reason
    if output.error or (stopped == "model_length" and not text.strip()):
        return Failed(_error(output) or "the prompt is too long for the model", took)
    if stopped == "content_filter":
        return Failed("the reply was filtered", took)
    ended = ENDINGS.get(stopped, "unknown")
    usage = output.usage
    if usage is None:
        return Said(text, guessed(prompt), guessed(text), took, ended, True)
    read = usage.input_tokens + (usage.input_tokens_cache_read or 0)
    read += usage.input_tokens_cache_write or 0
    return Said(text, read, usage.output_tokens, took, ended)


def _error(output: ModelOutput) -> str:
    """What a provider says went wrong; without the key, which an endpoint may repeat."""
    return reason(hidden(output.error or ""))


async def run_in_sample(
    question: str, models: Models, index: Index | None, system: str, limits: Limits
) -> tuple[Trace, LimitExceededError | None]:
    """What becomes of a question, and the limit of the sample that was passed, if one was.

    Args:
        question: What is asked.
        models: The model of each role.
        index: What is searched; without it the plan is not carried out.
        system: The planner's system message.
        limits: What the run may take.
    """
    async with BlockingPortal() as portal:
        roles = {part: InspectRole(*model, portal) for part, model in models.items()}
        agent = Agent(
            roles["planner"],
            roles["solver"],
            _tools(index, roles["worker"], limits.budget.seconds),
            limits.budget,
            system,
            plan_tokens=limits.plan_tokens,
        )
        try:
            [trace] = await to_thread.run_sync(
                partial(agent.run, [question], [index is not None]),
                abandon_on_cancel=True,
                limiter=CapacityLimiter(1),  # the threads of the usual one are for the models
            )
        finally:
            await portal.stop(cancel_remaining=True)
    return trace, next((role.limit for role in roles.values() if role.limit), None)


def _tools(index: Index | None, worker: InspectRole, seconds: float) -> Mapping[str, Tool]:
    """The usual tools; those with a model may take long, as it answers many samples.

    Of a plan that is not carried out only their names matter.
    """
    if index is None:
        return dict.fromkeys(TOOLS, Calculator())
    return {
        name: replace(tool, seconds=seconds) if isinstance(tool, Search | LLM) else tool
        for name, tool in usual_tools(index, worker).items()
    }
