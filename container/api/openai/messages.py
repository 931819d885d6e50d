"""Chat messages: what OpenAI's clients may send, made into what chat templates expect."""

from __future__ import annotations

from typing import Any

import msgspec

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
    "audio",
    "function_call",
}
# What clients echo back of an earlier answer and templates have no use for.
_ECHOED = {"refusal", "annotations", "audio", "function_call"}


def checked_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for the template. Raises InvalidRequest naming the place.

    `developer` becomes `system`, the name chat templates know; the arguments of past tool calls become objects, as
    templates want them.
    """
    check("messages", "a non-empty array", messages, bool(messages))
    return [_checked(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _checked(message: dict[str, Any], place: str) -> dict[str, Any]:
    role = message.get("role")
    check(f"{place}.role", f"one of {', '.join(ROLES)}", role, role in ROLES)
    for key in message:
        if key not in _KEYS:
            raise InvalidRequest(f"`{place}`: unknown field `{key[:80]}`", param=f"{place}.{key[:80]}")
    calls = message.get("tool_calls")
    content = message.get("content")
    if isinstance(content, list):
        for j, part in enumerate(content):
            _check_part(part, f"{place}.content[{j}]")
    elif content is not None or role != "assistant":
        check(f"{place}.content", "a string or an array of text parts", content, isinstance(content, str))
    elif not calls:
        raise InvalidRequest(f"`{place}` must have `content` or `tool_calls`", param=f"{place}.content")
    result = {key: value for key, value in message.items() if key not in _ECHOED and value is not None}
    result["role"] = "system" if role == "developer" else role
    if calls is not None:
        result["tool_calls"] = _checked_calls(calls, f"{place}.tool_calls")
        result.setdefault("content", "")
    return result


def _check_part(part: Any, place: str) -> None:
    check(place, "an object", part, isinstance(part, dict))
    kind = part.get("type")
    check(f"{place}.type", '"text"; this model reads text only', kind, kind == "text")
    check(f"{place}.text", "a string", part.get("text"), isinstance(part.get("text"), str))


def _checked_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    check(place, "an array", calls, isinstance(calls, list))
    return [_checked_call(call, f"{place}[{j}]") for j, call in enumerate(calls)]


def _checked_call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"`{place}.function.name` must be a string. Given: {show(function)}", param=place)
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}")
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidRequest(f"`{place}.function.arguments` must be JSON", param=place) from exc
    return {
        "id": str(call.get("id", "")),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
