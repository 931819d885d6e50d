"""The items of a request's `input`: messages, calls, results of calls, thoughts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from container.api.openai.field_rules import CACHE_HINTS, Ignored, Rules

_STORED: Rules = dict.fromkeys(
    ("id", "status", "created_at", "created_by", "metadata", "internal_chat_message_metadata_passthrough"),
    Ignored("it belongs to the client's own records"),
)
_ECHO: Rules = dict.fromkeys(
    ("phase", "agent", "caller", "async", "async_", "annotations", "logprobs", "parsed", "parsed_arguments"),
    Ignored("it repeats a part of an earlier answer"),
)
_ANY: Rules = _STORED | _ECHO | CACHE_HINTS
_PARTS = "one of input_text, output_text, text, refusal; this model reads text only"
TYPES = ("message", "function_call", "function_call_output", "reasoning")
ALLOWED = {
    "input": "a string or an array of items",
    "input[].type": f"one of {', '.join(TYPES)}; earlier items are not stored, send them themselves",
    "input[].role": "one of user, assistant, system, developer",
    "input[].content": "a string or an array of text parts",
    "input[].content[].type": _PARTS,
    "input[].output": "a string or an array of text parts",
    "input[].output[].type": _PARTS,
}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    foreign: ClassVar[Rules] = _ANY


class InputTextPart(_Part, frozen=True, kw_only=True, tag="input_text"):
    """A piece of text for the model."""

    text: str


class OutputTextPart(_Part, frozen=True, kw_only=True, tag="output_text"):
    """A piece of an earlier answer."""

    text: str


class PlainTextPart(_Part, frozen=True, kw_only=True, tag="text"):
    """Chat's name for either."""

    text: str


class RefusedPart(_Part, frozen=True, kw_only=True, tag="refusal"):
    """A piece of an earlier refusal."""

    refusal: str


ItemPart = InputTextPart | OutputTextPart | PlainTextPart | RefusedPart


class MessageItem(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="message"
):
    """A message. Its `type` may be absent."""

    foreign: ClassVar[Rules] = _ANY | {"name": Ignored("roles name who speaks")}
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ItemPart]


class CallItem(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function_call"
):
    """A call of an earlier answer; `call_id` joins it to its result."""

    foreign: ClassVar[Rules] = _ANY
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class ResultItem(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function_call_output"
):
    """What a call returned."""

    foreign: ClassVar[Rules] = _ANY | {
        "name": Ignored("`call_id` names the call"),
        "namespace": Ignored("`call_id` names the call"),
    }
    call_id: str
    output: str | list[ItemPart]


class SummaryPart(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="summary_text"
):
    """A piece of a thought's summary."""

    foreign: ClassVar[Rules] = _ANY
    text: str


class ThoughtPart(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"
):
    """A piece of a thought."""

    foreign: ClassVar[Rules] = _ANY
    text: str


class ReasoningItem(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="reasoning"
):
    """A thought of an earlier answer: its text, what we sent as `encrypted_content`, or a summary."""

    foreign: ClassVar[Rules] = _ANY
    summary: list[SummaryPart] | None = None
    content: list[ThoughtPart] | None = None
    encrypted_content: str | None = None


InputItem = MessageItem | CallItem | ResultItem | ReasoningItem


def with_types(items: Any) -> Any:
    """The items of a body with the `type` that messages may leave out; anything else stays as it is."""
    if not isinstance(items, list):
        return items
    return [_with_type(item) if isinstance(item, dict) and item.get("type") is None else item for item in items]


def _with_type(item: dict[str, Any]) -> dict[str, Any]:
    if "role" in item:
        return {**item, "type": "message"}
    return {**item, "type": "item_reference"} if item.keys() <= {"id", "type"} else item


def text_of_parts(content: str | list[ItemPart]) -> str:
    """The text of a message or a result."""
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusedPart) else part.text for part in content)
