"""Whether a body with `messages` is one of Anthropic's, for /invocations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BLOCKS = frozenset(["tool_use", "tool_result", "thinking", "redacted_thinking", "tool_addition", "tool_removal"])


def is_anthropics(body: dict[str, Any]) -> bool:
    """Whether it has what no chat of OpenAI's has: `anthropic_version` (Bedrock), `system`, a tool with `input_schema`
    at its top, or a block of type tool_use, tool_result, thinking, redacted_thinking, tool_addition or tool_removal."""
    if body.get("anthropic_version") or body.get("system"):
        return True
    tools = body.get("tools")
    if isinstance(tools, list) and any(isinstance(tool, dict) and "input_schema" in tool for tool in tools):
        return True
    return any(isinstance(block, dict) and _is_block(block.get("type")) for block in _blocks(body.get("messages")))


def _is_block(kind: Any) -> bool:
    return isinstance(kind, str) and kind in _BLOCKS


def _blocks(messages: Any) -> Iterator[Any]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        yield from content if isinstance(content, list) else ()
