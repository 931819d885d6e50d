"""The turns of a request -> the messages of a chat, as templates take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from container.api.anthropic.blocks import (
    AssistantTurn,
    FoundTool,
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
from container.api.openai.turns import Turns

Message = dict[str, Any]
# Claude Code puts a line before its system prompt that differs from call to call: no prefix would be found again.
_BILLING = "x-anthropic-billing-header:"
_ERROR = "Error"


def messages_of(system: str | list[TextBlock] | None, given: Sequence[Turn]) -> list[Message]:
    """The conversation; adjacent turns of one side are one message. Results of calls stand before the turn's text."""
    turns = Turns()
    blocks = [TextBlock(text=system)] if isinstance(system, str) else system or []
    texts = [text for block in blocks if (text := _without_billing(block.text))]
    if texts:
        turns.add("system", *texts)
    for turn in _in_force(given):
        match turn:
            case UserTurn():
                _add_user(turns, turn)
            case AssistantTurn():
                _add_assistant(turns, turn)
            case SystemTurn():
                _add_system(turns, turn)
    if not turns.role:
        # Nothing was said but which tools there are.
        turns.add("user")
    return turns.messages()


def _in_force(given: Sequence[Turn]) -> Iterator[Turn]:
    """The turns without those whose text is shown until the user's next turn alone."""
    last = max((i for i, turn in enumerate(given) if isinstance(turn, UserTurn)), default=-1)
    for i, turn in enumerate(given):
        if not (isinstance(turn, SystemTurn) and turn.clear_at == "next_user_message" and i < last):
            yield turn


def _without_billing(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_BILLING) else text


def _add_system(turns: Turns, turn: SystemTurn) -> None:
    """What a turn says; one that only changes tools or the effort says nothing."""
    blocks = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    if any(texts):
        turns.lead("system", "\n\n".join(texts))


def _add_user(turns: Turns, turn: UserTurn) -> None:
    blocks = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    results = [block for block in blocks if isinstance(block, ToolResultBlock)]
    for result in results:
        turns.result(result.tool_use_id, _result(result))
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    if texts or not results:
        turns.go_on("user", *texts)


def _result(block: ToolResultBlock) -> str:
    """The text of a result. A chat has no other place that says that the call failed."""
    text = _text(block.content or "")
    failed = block.is_error and not text.lower().startswith(_ERROR.lower())
    return f"{_ERROR}: {text}" if failed else text


def _add_assistant(turns: Turns, turn: AssistantTurn) -> None:
    turns.go_on("assistant")
    for block in [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content:
        match block:
            case TextBlock(text=text):
                turns.go_on("assistant", text)
            case ToolUseBlock():
                turns.call(block.id, block.name, block.input)
            case ThinkingBlock():
                turns.think(block.thinking or thought_in(block.signature or "") or "")
            case RedactedThinkingBlock():
                note_ignored("messages[].content[].data", "another server has encrypted this thought")


def continues(messages: Sequence[Message]) -> bool:
    """Whether the answer goes on where the last message ends."""
    last = messages[-1]
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _text(content: str | Sequence[TextBlock | FoundTool]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(
        block.text if isinstance(block, TextBlock) else f"Found the tool {block.tool_name}: it can be called now."
        for block in content
    )
