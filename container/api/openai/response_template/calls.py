"""The text of a region of tool calls -> the calls, each a name and its arguments as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from container.api.openai.parts import CallArguments, CallStart, Content, Part
from container.api.openai.response_template.body import JSON, Unquoted, Unreadable, value_of
from container.api.openai.response_template.control_signs import without_signs, without_tokens
from container.api.openai.response_template.mark import SlowPattern
from container.api.openai.response_template.template import Field
from container.api.openai.response_template.transform import NotTransformed, placeholder, transformed
from container.api.openai.tool_parsers.call_list import CallList
from container.api.openai.tool_parsers.typed_value import as_json
from container.api.schema.schema_types import types_of

_CLOSING = " \t\r\n}]"
# Names of the arguments in a call that no transform has changed.
_ARGUMENTS = ("arguments", "parameters")


class Calls:
    """Reads regions of `field` as calls of the functions in `schemas`."""

    def __init__(self, field: Field, schemas: Mapping[str, dict[str, Any]]) -> None:
        self._field = field
        self._schemas = schemas
        self._names = frozenset(schemas)

    def read(self, body: str, captures: Mapping[str, str], *, cut: bool) -> list[Part] | None:
        """The calls of a region; None if it is not made of calls of these functions alone.

        A call in JSON that is not well-formed, or that the answer's end has cut, stays as the model wrote it, and text
        behind it is content. Arguments in another form that the answer's limit has `cut` are left open.
        """
        captures = {name: without_signs(text) for name, text in captures.items()}
        is_json = self._field.content == JSON
        try:
            found = self._made(value_of(self._field.content, body, self._field.content_args, self._names), captures)
        except (NotTransformed, SlowPattern):
            return None
        except (Unreadable, RecursionError):
            return self._begun(body, captures) if is_json else None
        last = found[-1] if found and cut and not is_json else None
        return [*found[:-1], CallArguments(last.fragment[:-1])] if isinstance(last, CallArguments) else found or None

    def _made(self, value: Any, captures: Mapping[str, str]) -> list[Part]:
        """Raises NotTransformed, or RecursionError."""
        made = transformed(self._field, value, captures)
        return [part for each in (made if isinstance(made, list) else [made]) for part in self._parts(each)]

    def _begun(self, body: str, captures: Mapping[str, str]) -> list[Part] | None:
        if self._field.content_args:
            return None
        name = captures.get(placeholder(self._field.transform, "function", "name"), "")
        if name in self._names and placeholder(self._field.transform, "function", "arguments") == "content":
            text = without_tokens(body).lstrip()
            return [CallStart(name), CallArguments(text)] if text[:1] in ("", "{") else None
        calls = CallList(self._names)
        parts, rest = calls.push(without_tokens(body))
        # A bracket too many is no text.
        left = (rest or "").lstrip(_CLOSING)
        return [*parts, *([Content(left)] if left else [])] if calls.started else None

    def _parts(self, call: Any) -> list[Part]:
        """Raises NotTransformed for anything but a call of a known function."""
        function = call.get("function") if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else call
        name = _plain(function.get("name")) if isinstance(function, dict) else None
        if not isinstance(name, str) or name not in self._schemas:
            raise NotTransformed("no call of a known function")
        arguments: Any = next((function[key] for key in _ARGUMENTS if function.get(key) is not None), {})
        call_id = _plain(call.get("id"))
        return [
            CallStart(name, call_id if isinstance(call_id, str) else ""),
            CallArguments(self._json_of(name, arguments)),
        ]

    def _json_of(self, name: str, arguments: Any) -> str:
        """The arguments as JSON. Text in their place is an object in JSON already, as some models write it."""
        if isinstance(arguments, str) and arguments.lstrip().startswith("{"):
            return arguments
        if not isinstance(arguments, dict):
            raise NotTransformed("arguments that are no object")
        members = (
            f"{json.dumps(key, ensure_ascii=False)}: {self._value(name, key, arguments[key])}" for key in arguments
        )
        return "{" + ", ".join(members) + "}"

    def _value(self, name: str, key: str, value: Any) -> str:
        """What was written without quotes has the type that the function's schema gives it."""
        types = types_of(self._schemas[name], key)
        if isinstance(value, Unquoted) and types:
            return as_json(value.text, types)
        return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Unquoted):
        return value.value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, dict) else value
