"""Chats with tools, for agent benchmarks: messages for a chat template, calls from a reply.

A template that knows tools is given them; with any other, Inspect's own wording tells of them in a
system message. Calls are read by Inspect in either case. These parts of Inspect are not public, so
they are imported here alone, when tools are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inspect_ai.model import ChatMessage, ChatMessageAssistant
from inspect_ai.tool import ToolInfo

Messages = list[dict[str, Any]]


def chat_text(tokenizer: Any, messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> str:
    """The chat up to where the reply starts, in the model's own format.

    Raises:
        ValueError: if a message holds anything but text, or the template does not take the chat.
    """
    for message in messages:
        if not isinstance(message.content, str) and any(p.type != "text" for p in message.content):
            raise ValueError("s3lora/peft reads text alone")
    told: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    if tools and knows_tools(tokenizer):
        told["tools"] = [tool.model_dump(exclude_none=True) for tool in tools]
        rows = [_native(message) for message in messages]
    else:
        rows = _worded(messages, tools) if tools else [_plain(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(rows, **told))
    except Exception as error:  # a template raises whatever its author chose
        raise ValueError(f"the chat template does not take this chat: {error}") from error


def knows_tools(tokenizer: Any) -> bool:
    """Whether the chat template has a place for tools."""
    return "tools" in str(tokenizer.chat_template)


def message_of(text: str, model: str, tools: Sequence[ToolInfo]) -> ChatMessageAssistant:
    """The reply as a message, with the calls that are in it."""
    if not tools:
        return ChatMessageAssistant(content=text, model=model, source="generate")
    from inspect_ai.model._providers.util import HFHandler

    return HFHandler(model, "any").parse_assistant_response(text, list(tools))


def _plain(message: ChatMessage) -> dict[str, Any]:
    return {"role": message.role, "content": message.text}


def _native(message: ChatMessage) -> dict[str, Any]:
    """A message as templates with tools read it."""
    row = _plain(message)
    if message.role == "assistant" and message.tool_calls:
        row["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.function, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    elif message.role == "tool":
        row["name"] = message.function
        row["content"] = f"Error: {message.error.message}" if message.error else message.text
    return row


def _worded(messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]) -> Messages:
    """Messages with the tools told in words, for a template that has no place for them.

    There is one system message at most, and what a tool returned comes from the user: such
    templates know no other roles.
    """
    from inspect_ai.model._providers.util import Llama31Handler
    from inspect_ai.model._providers.util.chatapi import chat_api_input

    rows = chat_api_input(list(messages), list(tools), Llama31Handler("any"))
    system = [row["content"] for row in rows if row["role"] == "system"]
    rest = [
        {"role": "user" if row["role"] == "tool" else row["role"], "content": row["content"]}
        for row in rows
        if row["role"] != "system"
    ]
    return [{"role": "system", "content": "\n\n".join(system)}, *rest]
