"""The items of a request's `input`, and all of them as one text."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from container.api.openai.field_rules import CACHE_HINTS, Ignored, Rules
from container.errors import InvalidRequest

_STORED: Rules = dict.fromkeys(("id", "status", "phase"), Ignored("it belongs to the client's own records"))
_ANY: Rules = _STORED | CACHE_HINTS
_PART = "one of input_text, input_json; this model reads text only"
ITEM_TYPES = ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
ALLOWED = {
    "input": "a string or an array of items",
    "input[].type": f"one of {', '.join(ITEM_TYPES)}",
    "input[].role": "one of user, developer, system, assistant",
    "input[].content": "a string or an array of parts",
    "input[].content[].type": "one of input_text, input_json, output_text, refusal; this model reads text only",
    "input[].output": "a string or an array of parts",
    "input[].output[].type": _PART,
    "questions[].instructions": "a string or an array of parts",
    "questions[].instructions[].type": _PART,
}


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    foreign: ClassVar[Rules] = _ANY


class DecisionText(_Part, frozen=True, kw_only=True, tag="input_text"):
    """A piece of text."""

    text: str


class DecisionJson(_Part, frozen=True, kw_only=True, tag="input_json"):
    """JSON, which the model reads as compact text."""

    data: dict[str, Any] | list[dict[str, Any]]


class DecisionOutputText(_Part, frozen=True, kw_only=True, tag="output_text"):
    """A piece of what an assistant said."""

    text: str


class DecisionRefusedPart(_Part, frozen=True, kw_only=True, tag="refusal"):
    """A piece of an assistant's refusal."""

    refusal: str


Given = str | list[DecisionText | DecisionJson]


class _Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    foreign: ClassVar[Rules] = _ANY


class DecisionMessage(_Item, frozen=True, kw_only=True, tag="message"):
    """A message. Its `type` may be absent."""

    role: Literal["user", "developer", "system", "assistant"]
    content: str | list[DecisionText | DecisionJson | DecisionOutputText | DecisionRefusedPart]


class DecisionCall(_Item, frozen=True, kw_only=True, tag="function_call"):
    """A function's call."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class DecisionResult(_Item, frozen=True, kw_only=True, tag="function_call_output"):
    """What a function returned."""

    call_id: str
    output: Given


class DecisionCustomCall(_Item, frozen=True, kw_only=True, tag="custom_tool_call"):
    """A custom tool's call."""

    call_id: str
    name: str
    input: str
    namespace: str | None = None


class DecisionCustomResult(_Item, frozen=True, kw_only=True, tag="custom_tool_call_output"):
    """What a custom tool returned."""

    call_id: str
    output: Given


_Call = DecisionCall | DecisionCustomCall
_Result = DecisionResult | DecisionCustomResult
Item = DecisionMessage | _Call | _Result


def with_types(items: Any) -> Any:
    """The items of a body with the `type` that messages may leave out; anything else stays as it is."""
    if not isinstance(items, list):
        return items
    return [{**each, "type": "message"} if _is_plain_message(each) else each for each in items]


def _is_plain_message(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") is None and "role" in item


def check_calls(items: list[Item]) -> None:
    """Raise InvalidRequest for a result without an earlier call of its kind."""
    called: set[tuple[bool, str]] = set()
    for i, item in enumerate(items):
        if isinstance(item, _Call):
            called.add((isinstance(item, DecisionCall), item.call_id))
        elif isinstance(item, _Result) and (isinstance(item, DecisionResult), item.call_id) not in called:
            place = f"input[{i}].call_id"
            raise InvalidRequest(f"`{place}` must name an earlier call. Given: {item.call_id[:80]}", param=place)


def input_text(given: str | list[Item]) -> str:
    """The text that is judged: what the user says, as it is; anything else as a JSON array of who said what.

    In JSON no message can pass for another, and none has authority over the question.
    """
    if isinstance(given, str):
        return given
    if all(isinstance(item, DecisionMessage) and item.role == "user" for item in given):
        return "\n\n".join(_shown(item)["content"] for item in given)
    return compact([_shown(item) for item in given])


def text_of(content: str | list[Any]) -> str:
    """A text, or the parts of one in lines of their own."""
    return content if isinstance(content, str) else "\n".join(map(_part_text, content))


def compact(value: Any) -> str:
    """JSON without white space."""
    return msgspec.json.encode(value).decode()


def _part_text(part: DecisionText | DecisionJson | DecisionOutputText | DecisionRefusedPart) -> str:
    if isinstance(part, DecisionJson):
        return compact(part.data)
    return part.refusal if isinstance(part, DecisionRefusedPart) else part.text


def _shown(item: Item) -> dict[str, str]:
    if isinstance(item, DecisionMessage):
        return {"role": item.role, "content": text_of(item.content)}
    if isinstance(item, _Result):
        return {"type": str(item.__struct_config__.tag), "call_id": item.call_id, "output": text_of(item.output)}
    given = {"arguments": item.arguments} if isinstance(item, DecisionCall) else {"input": item.input}
    name = item.name if item.namespace is None else f"{item.namespace}.{item.name}"
    return {"type": str(item.__struct_config__.tag), "call_id": item.call_id, "name": name, **given}
