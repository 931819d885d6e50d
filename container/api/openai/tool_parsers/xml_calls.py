"""Qwen3-Coder's calls: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.

Values are text without quotes, so their types come from the function's schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from container.api.openai.parts import CallArguments, CallStart, Content, Part, joined
from container.api.openai.tool_parsers.marker import Gap, Marker, overlap
from container.api.schema_types import types_of

OPENING, CLOSING = "<tool_call>", "</tool_call>"
FUNCTION, PARAMETER = "<function=", "<parameter="
FUNCTION_END, PARAMETER_END = "</function>", "</parameter>"
# A function's or a parameter's name; longer text is not a name.
_MAX_NAME_CHARS = 256
_WORDS = {"True": True, "False": False, "None": None}


class XmlParser:
    """Text outside the tags is content, except white space next to a call. The outer tag may be missing.

    Each state takes the waiting text and returns the rest of it, or None if it needs more.
    """

    def __init__(self, schemas: Mapping[str, dict[str, Any]]) -> None:
        self._schemas = schemas
        self._gap = Gap()
        self._waiting = ""
        self._state: Callable[[str], str | None] = self._outside
        self._parts: list[Part] = []
        self._raw = ""
        self._schema: dict[str, Any] = {}
        self._num_arguments = 0
        self._value: _Value | None = None

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        rest: str | None = self._waiting + text
        self._waiting = ""
        while rest:
            rest = self._state(rest)
        parts, self._parts = self._parts, []
        return joined(parts)

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer. A truncated call stays as it is."""
        if self._state in (self._outside, self._opened, self._function_name, self._closing):
            self._show(self._raw + self._waiting)
        elif self._value is not None:
            self._emit(self._value.flush())
        self._waiting = ""
        self._parts.append(Content(self._gap.flush()))
        parts, self._parts = self._parts, []
        return joined(parts)

    def _outside(self, text: str) -> str | None:
        found = re.search(f"{OPENING}|{FUNCTION}", text)
        if found is None:
            held = max(overlap(text, OPENING), overlap(text, FUNCTION))
            self._show(text[: len(text) - held])
            return self._wait(text[len(text) - held :])
        self._show(text[: found.start()])
        self._raw = found[0]
        self._state = self._opened if found[0] == OPENING else self._function_name
        return text[found.end() :]

    def _opened(self, text: str) -> str | None:
        """After the outer tag: a function, or no call at all."""
        begun = text.lstrip()
        if begun.startswith(FUNCTION):
            self._raw += text[: len(text) - len(begun)] + FUNCTION
            self._state = self._function_name
            return begun[len(FUNCTION) :]
        if FUNCTION.startswith(begun) and len(text) <= _MAX_NAME_CHARS:
            return self._wait(text)
        return self._no_call(text)

    def _function_name(self, text: str) -> str | None:
        name, end, rest = text.partition(">")
        if not end and len(name) <= _MAX_NAME_CHARS:
            return self._wait(text)
        if not end or name.strip() not in self._schemas:
            return self._no_call(text)
        self._gap.call()
        self._parts.append(CallStart(name.strip()))
        self._schema, self._num_arguments, self._raw = self._schemas[name.strip()], 0, ""
        self._state = self._inside
        return rest

    def _no_call(self, text: str) -> str:
        """Turn the text read so far into content; a call may begin again after it."""
        self._show(self._raw)
        self._raw, self._state = "", self._outside
        return text

    def _inside(self, text: str) -> str | None:
        """Between parameters. Any other text than a parameter ends the call, as the end of the function does."""
        begun = text.lstrip()
        if begun.startswith(PARAMETER):
            self._state = self._parameter_name
            return begun[len(PARAMETER) :]
        if (PARAMETER.startswith(begun) or FUNCTION_END.startswith(begun)) and begun != FUNCTION_END:
            return self._wait(begun)
        self._parts.append(CallArguments("}" if self._num_arguments else "{}"))
        self._state = self._closing
        return begun.removeprefix(FUNCTION_END) or self._wait("")

    def _parameter_name(self, text: str) -> str | None:
        name, end, rest = text.partition(">")
        if not end and len(name) <= _MAX_NAME_CHARS:
            return self._wait(text)
        before = ", " if self._num_arguments else "{"
        self._num_arguments += 1
        self._parts.append(CallArguments(f"{before}{json.dumps(name.strip(), ensure_ascii=False)}: "))
        self._value = _Value(types_of(self._schema, name.strip()))
        self._state = self._parameter_value
        return rest or self._wait("")

    def _parameter_value(self, text: str) -> str | None:
        value = self._value
        if value is None:
            return text
        written, rest = value.push(text)
        self._emit(written)
        if rest is not None:
            self._value, self._state = None, self._inside
        return rest or self._wait("")

    def _closing(self, text: str) -> str | None:
        """Remove the outer closing tag, if there is one."""
        tag = text.lstrip()
        if CLOSING.startswith(tag) and tag != CLOSING:
            return self._wait(tag)
        self._state = self._outside
        return tag.removeprefix(CLOSING)

    def _show(self, text: str) -> None:
        self._parts.append(Content(self._gap.show(text)))

    def _emit(self, text: str) -> None:
        self._parts.append(CallArguments(text))

    def _wait(self, text: str) -> str | None:
        self._waiting = text
        return None


class _Value:
    """One value as JSON. A string is emitted as it comes, any other value when it is complete."""

    def __init__(self, types: frozenset[str]) -> None:
        self._types = types
        self._end = Marker(PARAMETER_END)
        self._is_text = types == {"string"}
        self._begun = False
        self._held: list[str] = []

    def push(self, text: str) -> tuple[str, str | None]:
        """The JSON that `text` completes, and the text after the value; None while the value goes on."""
        shown, rest = self._end.push(text)
        self._held.append(shown)
        if not self._is_text:
            return ("" if rest is None else _as_json(_unframed("".join(self._held)), self._types)), rest
        return self._text(ends=rest is not None), rest

    def _text(self, *, ends: bool) -> str:
        """The text held, as a piece of a JSON string. The line break before the closing tag belongs to the tag."""
        held = "".join(self._held)
        if not held and not ends:
            return ""
        opening = "" if self._begun else '"'
        if not self._begun:
            self._begun, held = True, held.removeprefix("\n")
        complete = held.removesuffix("\n")
        self._held = [] if ends else [held[len(complete) :]]
        return opening + _escaped(complete) + ('"' if ends else "")

    def flush(self) -> str:
        """The rest, when the answer ends inside the value."""
        if not self._is_text:
            return ""
        self._held.append(self._end.flush())
        return self._text(ends=False)


def _unframed(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")


def _as_json(text: str, types: frozenset[str]) -> str:
    """The text itself if it is JSON of one of `types`, else the text as a string. Empty `types` accept anything."""
    stripped = text.strip()
    try:
        value = _WORDS[stripped] if stripped in _WORDS else json.loads(stripped, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, str) or (types and not types & _types_of_value(value)):
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(value) if stripped in _WORDS else stripped


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _types_of_value(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if float(value).is_integer() else {"number"}
    return {"array"} if isinstance(value, list) else {"object"}


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
