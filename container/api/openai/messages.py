"""The messages of a chat as OpenAI's clients send them: one type for each role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from container.api.bounds import shown

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# For `convert`, where msgspec's message about a union says too little.
ALLOWED = {
    "messages": "a non-empty array",
    "messages[].role": f"one of {', '.join(ROLES)}",
    "messages[].content": "a string or an array of text parts",
    "messages[].content[].type": '"text"; this model reads text only',
}


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of text; parts of other kinds are refused before anything is fetched or decoded."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """A piece of an earlier refusal."""

    refusal: str


Part = TextPart | RefusalPart


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The arguments are JSON text or an object; TGI also calls them `parameters`."""

    name: str
    arguments: str | dict[str, Any] | None = None
    parameters: str | dict[str, Any] | None = None


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call of an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`field_rules` holds what clients send beside these."""

    content: str | list[Part]
    name: str | None = None


class SystemMessage(_Message, frozen=True, tag_field="role", tag="system"):
    """Instructions for the model."""


class DeveloperMessage(_Message, frozen=True, tag_field="role", tag="developer"):
    """OpenAI's newer name for the system role."""


class UserMessage(_Message, frozen=True, tag_field="role", tag="user"):
    """The user's message."""


class ToolMessage(_Message, frozen=True, kw_only=True, omit_defaults=True, tag_field="role", tag="tool"):
    """The result of a call."""

    tool_call_id: str | None = None


class FunctionMessage(_Message, frozen=True, tag_field="role", tag="function"):
    """OpenAI's older name for a tool's result."""


class AssistantMessage(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="role",
    tag="assistant",
):
    """The model's answer: text, calls or both."""

    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError; msgspec adds the path to its message."""
        if self.content is None and not self.tool_calls and not self.refusal:
            raise ValueError("must have `content` or `tool_calls`")


_SAYS_SOMETHING = {
    "if": {"properties": {"role": {"const": "assistant"}}},
    "then": {
        "anyOf": [
            {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
            {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
            {"required": ["refusal"], "properties": {"refusal": {"type": "string", "minLength": 1}}},
        ]
    },
}
Message = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    shown(**_SAYS_SOMETHING),
]


def for_template(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages as plain values, without null fields and earlier refusals, which templates do not read.

    The arguments of past calls stay as they were sent.
    """
    return [_plain(message) for message in messages]


def _plain(message: Message) -> dict[str, Any]:
    found = {key: value for key, value in msgspec.to_builtins(message).items() if key != "refusal"}
    content = message.content
    if content is None:
        found["content"] = (message.refusal if isinstance(message, AssistantMessage) else None) or ""
    elif isinstance(content, list):
        texts = [part.text if isinstance(part, TextPart) else part.refusal for part in content]
        found["content"] = [{"type": "text", "text": text} for text in texts]
    if isinstance(message, AssistantMessage):
        found.pop("tool_calls", None)
        if message.tool_calls:
            found["tool_calls"] = [_plain_call(call) for call in message.tool_calls]
    return found


def _plain_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments if call.function.arguments is not None else call.function.parameters
    found = {"type": "function", "function": {"name": call.function.name, "arguments": arguments or {}}}
    return found if call.id is None else {"id": call.id, **found}
