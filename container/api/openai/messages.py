"""The messages of a chat, as OpenAI's clients may send them."""

from __future__ import annotations

from typing import Any

from container.api.validation import check, show
from container.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_KEYS = {
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "reasoning_content",
    "reasoning",
    "annotations",
    "parsed",
    "audio",
    "function_call",
}
_TEXTS = {"name", "tool_call_id", "reasoning_content", "reasoning"}
# What clients echo back of an earlier answer and templates have no use for.
_ECHOED = {"refusal", "annotations", "audio", "function_call", "parsed"}


def checked_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without what has no value and what only echoes an earlier answer. Raises InvalidRequest naming
    the place. The arguments of past calls stay as they were sent.
    """
    check("messages", "a non-empty array", messages, bool(messages))
    return [_checked(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _checked(message: dict[str, Any], place: str) -> dict[str, Any]:
    role = message.get("role")
    check(f"{place}.role", f"one of {', '.join(ROLES)}", role, role in ROLES)
    for key in message:
        if key not in _KEYS:
            raise InvalidRequest(f"`{place}`: unknown field `{key[:80]}`", param=f"{place}.{key[:80]}")
    result = {key: value for key, value in message.items() if key not in _ECHOED and value is not None}
    for key in _TEXTS & result.keys():
        check(f"{place}.{key}", "a string", result[key], isinstance(result[key], str))
    calls = result.pop("tool_calls", None)
    if calls:
        check(f"{place}.role", "assistant, because the message has `tool_calls`", role, role == "assistant")
        result["tool_calls"] = _checked_calls(calls, f"{place}.tool_calls")
    result["content"] = _checked_content(message, place)
    return result


def _checked_content(message: dict[str, Any], place: str) -> str | list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, list):
        return [_checked_part(part, f"{place}.content[{j}]") for j, part in enumerate(content)]
    if content is None and message["role"] == "assistant":
        if message.get("tool_calls") or message.get("refusal"):
            return str(message.get("refusal") or "")
        raise InvalidRequest(f"`{place}` must have `content` or `tool_calls`", param=f"{place}.content")
    check(f"{place}.content", "a string or an array of text parts", content, isinstance(content, str))
    return str(content)


def _checked_part(part: Any, place: str) -> dict[str, Any]:
    """Parts of other kinds are refused here, before anything is fetched or decoded."""
    check(place, "an object", part, isinstance(part, dict))
    kind = part.get("type")
    check(f"{place}.type", '"text"; this model reads text only', kind, kind in {"text", "refusal"})
    text = part.get(kind)
    check(f"{place}.{kind}", "a string", text, isinstance(text, str))
    return {"type": "text", "text": text}


def _checked_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    check(place, "an array", calls, isinstance(calls, list))
    return [_checked_call(call, f"{place}[{j}]") for j, call in enumerate(calls)]


def _checked_call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"`{place}.function.name` must be a string. Given: {show(function)}", param=place)
    arguments = function.get("arguments", function.get("parameters"))
    allowed = "a string of JSON"
    check(f"{place}.function.arguments", allowed, arguments, arguments is None or isinstance(arguments, str | dict))
    call_id = call.get("id")
    check(f"{place}.id", "a string", call_id, call_id is None or isinstance(call_id, str))
    found = {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
    return found if call_id is None else {"id": call_id, **found}
