"""The turns of a request -> the messages of a chat, as templates take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from container.api.anthropic.blocks import (
    AssistantTurn,
    RedactedThinkingBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UserTurn,
)
from container.api.ignored_fields import note_ignored
from container.api.openai.carried_thought import thought_in

Message = dict[str, Any]
# Claude Code puts a line before its system prompt that differs from call to call: no prefix would be found again.
_BILLING = "x-anthropic-billing-header:"
_ERROR = "Error"


def messages_of(system: str | list[TextBlock] | None, turns: Sequence[Turn]) -> list[Message]:
    """The conversation; adjacent turns of one side are one message. Results of calls stand before the turn's text."""
    found: list[Message] = []
    blocks = [TextBlock(text=system)] if isinstance(system, str) else system or []
    texts = [block.text for block in blocks if block.text and not block.text.startswith(_BILLING)]
    if texts:
        found.append({"role": "system", "content": "\n\n".join(texts)})
    for turn in turns:
        match turn:
            case UserTurn():
                _add_user(found, turn)
            case AssistantTurn():
                _add_assistant(found, turn)
            case SystemTurn():
                found.append({"role": "system", "content": _text(turn.content)})
    return found


def _add_user(messages: list[Message], turn: UserTurn) -> None:
    blocks = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    messages += ({"role": "tool", "tool_call_id": each.tool_use_id, "content": _result(each)} for each in results)
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    if not texts and results:
        return
    if not messages or messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": ""})
    messages[-1]["content"] = "\n\n".join(filter(None, (messages[-1]["content"], *texts)))


def _result(block: ToolResultBlock) -> str:
    """The text of a result. A chat has no other place that says that the call failed."""
    text = _text(block.content or "")
    failed = block.is_error and not text.lower().startswith(_ERROR.lower())
    return f"{_ERROR}: {text}" if failed else text


def _add_assistant(messages: list[Message], turn: AssistantTurn) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    message = messages[-1]
    blocks = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    for block in blocks:
        match block:
            case TextBlock(text=text):
                message["content"] = "\n".join(filter(None, (message["content"], text)))
            case ToolUseBlock():
                function = {"name": block.name, "arguments": block.input}
                call = {"id": block.id, "type": "function", "function": function}
                message.setdefault("tool_calls", []).append(call)
            case ThinkingBlock():
                thought = block.thinking or thought_in(block.signature or "") or ""
                if thought:
                    message["reasoning_content"] = "\n".join(filter(None, (message.get("reasoning_content"), thought)))
            case RedactedThinkingBlock():
                note_ignored("messages[].content[].data", "another server has encrypted this thought")


def continues(messages: Sequence[Message]) -> bool:
    """Whether the answer goes on where the last message ends."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n\n".join(block.text for block in content)
