"""Calls as Python, `[get_weather(city="Paris"), now()]`, with or without the brackets of a list."""

from __future__ import annotations

import re

import msgspec

from container.api.openai.parts import CallArguments, CallStart, Content, Part
from container.api.openai.tool_parsers.python_literal import NotACall, read_call

_SIGNIFICANT = re.compile(r"[\"'\\()\[\]{}]")
_BETWEEN = " \t\r\n,"


class PythonCalls:
    """Reads calls until other text follows; each call is emitted when it is complete."""

    def __init__(self, names: frozenset[str]) -> None:
        self.started = False
        self._names = names
        self._longest = max(map(len, names), default=0)
        self._in_brackets = False
        self._raw: list[str] = []
        self._call: list[str] = []
        self._head = ""
        self._depth = 0
        self._quote = ""
        self._escaped = False
        self._failed = False

    def push(self, text: str) -> tuple[list[Part], str | None]:
        """The parts, and the text that follows the calls or is none; None while more calls may come."""
        parts: list[Part] = []
        index = 0
        while True:
            if self._call:
                index = self._call_text(text, index, parts)
                if self._failed:
                    return parts, self._taken() + text[index:]
                if index == len(text):
                    return parts, None
                continue
            index = self._skip(text, index)
            if index == len(text):
                return parts, None
            if text[index] == "]" and self._in_brackets:
                raw = self._taken()
                return parts, text[index + 1 :] if self.started else f"{raw}]{text[index + 1 :]}"
            if not self._begin_call(text[index]):
                self._in_brackets = True
                self._raw.append("[")
                index += 1

    def flush(self) -> list[Part]:
        """The text held back, which is not a call. Separators after a call are not text."""
        in_call = bool(self._call)
        raw = self._taken()
        return [Content(raw)] if raw and (in_call or not self.started or raw.strip(_BETWEEN)) else []

    def _taken(self) -> str:
        raw, self._raw, self._call = "".join(self._raw), [], []
        return raw

    def _skip(self, text: str, index: int) -> int:
        start = index
        while index < len(text) and text[index] in _BETWEEN:
            index += 1
        self._raw.append(text[start:index])
        return index

    def _begin_call(self, character: str) -> bool:
        """Whether a call begins here; else it is the bracket of the list."""
        if character == "[" and not (self._in_brackets or self.started):
            return False
        self._call, self._head, self._depth = [""], "", 0
        return True

    def _call_text(self, text: str, index: int, parts: list[Part]) -> int:
        """Read up to the next significant character, and end the call at its closing parenthesis."""
        found = None if self._escaped else _SIGNIFICANT.search(text, index)
        end = index + 1 if self._escaped else len(text) if found is None else found.end()
        piece = text[index:end]
        self._raw.append(piece)
        self._call.append(piece)
        if self._depth == 0 and not self._heads_a_call(piece):
            self._failed = True
        elif self._escaped:
            self._escaped = False
        elif found is not None and self._ends(found[0]):
            self._emit(parts)
        return end

    def _heads_a_call(self, piece: str) -> bool:
        """Whether the text before the parenthesis can still be a function's name."""
        self._head += piece
        name, parenthesis, _ = self._head.partition("(")
        if parenthesis:
            return name.strip() in self._names
        return len(self._head) <= self._longest and any(known.startswith(name) for known in self._names)

    def _ends(self, character: str) -> bool:
        if self._quote:
            self._escaped = character == "\\"
            self._quote = "" if character == self._quote else self._quote
        elif character in "\"'":
            self._quote = character
        elif character in "([{":
            self._depth += 1
        elif character in ")]}":
            self._depth -= 1
        return self._depth == 0 and not self._quote

    def _emit(self, parts: list[Part]) -> None:
        try:
            name, arguments = read_call("".join(self._call))
        except NotACall:
            self._failed = True
            return
        self.started = True
        parts += [CallStart(name), CallArguments(msgspec.json.encode(arguments).decode())]
        self._raw, self._call = [], []
