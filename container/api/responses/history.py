"""The items of a request -> the messages of a chat, as templates take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from container.api.ignored_fields import note_ignored
from container.api.openai.carried_thought import thought_in
from container.api.openai.turns import Turns
from container.api.responses.items import CallItem, InputItem, MessageItem, ReasoningItem, ResultItem, text_of_parts
from container.api.responses.tools import Offer

Message = dict[str, Any]


def messages_of(instructions: str | None, given: str | Sequence[InputItem], offered: Offer) -> list[Message]:
    """The conversation. Items of one turn become one message, as do system messages in front and adjacent users."""
    turns = Turns()
    if instructions:
        turns.lead("system", instructions)
    for item in [MessageItem(role="user", content=given)] if isinstance(given, str) else given:
        _add(turns, item, offered)
    if turns.only_system:
        # A probe may ask nothing.
        turns.add("user")
    return turns.messages()


def _add(turns: Turns, item: InputItem, offered: Offer) -> None:
    match item:
        case ResultItem():
            turns.result(item.call_id, text_of_parts(item.output))
        case MessageItem(role="user" | "assistant"):
            turns.go_on(item.role, text_of_parts(item.content))
        case MessageItem():
            turns.lead(item.role, text_of_parts(item.content))
        case ReasoningItem():
            turns.think(_thought(item))
        case CallItem():
            turns.call(item.call_id, offered.offered(item.namespace, item.name), item.arguments)


def _thought(item: ReasoningItem) -> str:
    """The text of a thought, by the fullest account that the item has of it."""
    if item.content:
        return "".join(part.text for part in item.content)
    if item.encrypted_content is not None:
        # Clients such as Codex send back nothing else of a thought.
        found = thought_in(item.encrypted_content)
        if found is not None:
            return found
        note_ignored("input[].encrypted_content", "another server has written it")
    return "\n".join(part.text for part in item.summary or ())
