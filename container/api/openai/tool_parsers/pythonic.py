"""Calls as a Python list, `[get_weather(city="Paris"), now()]`: Llama 3.2, Llama 4 and relatives."""

from __future__ import annotations

import re

import msgspec

from container.api.openai.parts import CallArguments, CallStart, Content, Part, joined
from container.api.openai.tool_parsers.python_literal import NotACall, read_call

TAGS = ("<|python_start|>", "<|python_tag|>")
_MAX_TAG_CHARS = max(map(len, TAGS))
_SIGNIFICANT = re.compile(r"[\"'\\()\[\]{}]")
_BETWEEN = " \t\r\n,"


class PythonicParser:
    """Reads a list of calls that is the whole answer; each call is emitted when it is complete."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._longest = max(map(len, names), default=0)
        self._begin: str | None = ""
        self._is_text = False
        self._raw: list[str] = []
        self._call: list[str] = []
        self._head = ""
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        parts: list[Part] = []
        if self._begin is not None:
            text = self._start(self._begin + text)
        index = 0
        while index < len(text) and not self._is_text:
            index = self._call_text(text, index, parts) if self._call else self._between(text, index)
        if self._is_text:
            parts += [Content("".join(self._raw)), Content(text[index:])]
            self._raw = []
        return joined(parts)

    def _start(self, text: str) -> str:
        """Remove the list's opening, or wait for it."""
        begun = text.lstrip()
        tag = next((tag for tag in TAGS if begun.startswith(tag)), "")
        inside = begun.removeprefix(tag).lstrip()
        waiting = not inside or (not tag and len(begun) < _MAX_TAG_CHARS and any(t.startswith(begun) for t in TAGS))
        self._begin = text if waiting else None
        if waiting:
            return ""
        if inside[0] != "[":
            self._is_text = True
            return text
        self._raw = [text[: len(text) - len(inside) + 1]]
        return inside[1:]

    def _between(self, text: str, index: int) -> int:
        start = index
        while index < len(text) and text[index] in _BETWEEN:
            index += 1
        self._raw.append(text[start:index])
        if index == len(text):
            return index
        if text[index] == "]":
            self._raw, self._is_text = [], True
            return index + 1
        self._call, self._head, self._depth = [""], "", 0
        return index

    def _call_text(self, text: str, index: int, parts: list[Part]) -> int:
        """Read up to the next significant character, and end the call at its closing parenthesis."""
        found = None if self._escaped else _SIGNIFICANT.search(text, index)
        end = index + 1 if self._escaped else len(text) if found is None else found.end()
        piece = text[index:end]
        self._raw.append(piece)
        self._call.append(piece)
        if self._depth == 0 and not self._heads_a_call(piece):
            self._is_text = True
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
            self._is_text = True
            return
        parts += [CallStart(name), CallArguments(msgspec.json.encode(arguments).decode())]
        self._raw, self._call = [], []

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer."""
        waiting, self._begin = self._begin, None
        raw, self._raw = "".join(self._raw), []
        return joined([Content(waiting or ""), Content(raw if self._call or raw.strip(_BETWEEN) else "")])
