"""The items of a request -> the messages of a chat, as templates take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from container.api.ignored_fields import note_ignored
from container.api.openai.carried_thought import thought_in
from container.api.openai.system_messages import SYSTEM_ROLES
from container.api.responses.items import CallItem, InputItem, MessageItem, ReasoningItem, ResultItem, text_of_parts
from container.api.responses.tools import Offer

Message = dict[str, Any]


def messages_of(instructions: str | None, given: str | Sequence[InputItem], offered: Offer) -> list[Message]:
    """The conversation. Items of one turn become one message, as do system messages in front and adjacent users."""
    found: list[Message] = [] if not instructions else [{"role": "system", "content": instructions}]
    items = [MessageItem(role="user", content=given)] if isinstance(given, str) else given
    for item in items:
        _add(found, item, offered)
    if all(message["role"] in SYSTEM_ROLES for message in found):
        # A probe may ask nothing.
        found.append({"role": "user", "content": ""})
    return found


def _add(messages: list[Message], item: InputItem, offered: Offer) -> None:
    match item:
        case ResultItem():
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text_of_parts(item.output)})
        case MessageItem(role="assistant"):
            _extend(_turn(messages), "content", text_of_parts(item.content))
        case MessageItem():
            _add_message(messages, item.role, text_of_parts(item.content))
        case ReasoningItem():
            _extend(_turn(messages), "reasoning_content", _thought(item))
        case CallItem():
            name = offered.offered(item.namespace, item.name)
            call = {"id": item.call_id, "type": "function", "function": {"name": name, "arguments": item.arguments}}
            _turn(messages).setdefault("tool_calls", []).append(call)


def _turn(messages: list[Message]) -> Message:
    """The assistant's turn that goes on, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _add_message(messages: list[Message], role: str, text: str) -> None:
    last = messages[-1] if messages else None
    leads = role in SYSTEM_ROLES and all(message["role"] in SYSTEM_ROLES for message in messages)
    if last is None or not (leads or last["role"] == role == "user"):
        messages.append({"role": role, "content": text})
        return
    last["role"] = role if last["role"] == role else "system"
    _extend(last, "content", text, "\n\n")


def _extend(message: Message, key: str, text: str, between: str = "\n") -> None:
    found = between.join(filter(None, (message.get(key), text)))
    if found or key == "content":
        message[key] = found


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
