"""What a step of a plan found: one line of text that cannot be read as part of a plan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from s3lora.lab.planner.roles import Failed, Reply, why
from s3lora.lab.planner.threads import within
from s3lora.lab.planner.tools import Tool, ToolError

LONGEST = 800
"""Characters of the evidence of one step."""

MARK = re.compile(r"#(?=E[0-9])")
"""What begins a reference or a call of a plan."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The result of one step, or why there is none."""

    tool: str
    input: str
    """As it was carried out: with the evidence of earlier steps in it."""
    text: str
    """What later steps and the solver read; of a tool that failed, that it did and why."""
    failed: bool
    reply: Reply | None
    """Of the model behind the tool, if one was asked."""
    seconds: float


def carry_out(
    tool: Tool, name: str, text: str, new_tokens: int, until: float | None = None
) -> Evidence:
    """Use a tool; whatever it does, the result is evidence.

    Args:
        tool: Any tool.
        name: What the plan calls it.
        text: The input.
        new_tokens: How many tokens a model behind it may write.
        until: The clock of `perf_counter` at which it has to be done, beside its own limit.
    """
    start = perf_counter()
    seconds = tool.seconds if until is None else min(tool.seconds, until - start)
    try:
        result = within(seconds, partial(tool.use, text, new_tokens))
        told, failed, reply = one_line(result.text), False, result.reply
    except Exception as error:  # a tool is whatever a caller gives
        reply = error.reply if isinstance(error, ToolError) else None
        if isinstance(error, TimeoutError) and tool.new_tokens:
            reply = Failed(why(error), seconds)
        reason = str(error) if isinstance(error, ToolError) else why(error)
        told, failed = one_line(f"[{name} failed: {reason}]"), True
    if not told:
        told, failed = f"[{name} failed: it found nothing]", True
    return Evidence(name, text, told, failed, reply, perf_counter() - start)


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text in one line without control characters, cut to a length, never a line of a plan.

    A `#E1` in it loses its form (`# E1`): it is neither a reference nor a call any more.
    """
    line = MARK.sub("# ", "".join(c if c.isprintable() else " " for c in text))
    line = " ".join(line.split())
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"
