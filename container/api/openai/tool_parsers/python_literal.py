"""`name(a=1, b="x")` with literal arguments, read without Python's own parser: no code, bounded depth, linear time."""

from __future__ import annotations

import re
from typing import Any

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_KEYWORD = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*)?\.?\d*(?:[eE][+-]?\d+)?")
_STRING = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_CLOSING = {"[": "]", "(": ")"}
_MAX_DEPTH = 32
_MAX_DIGITS = 64


class NotACall(ValueError):
    """The text is not a call with literal keyword arguments."""


def read_call(text: str) -> tuple[str, dict[str, Any]]:
    """The function's name and its arguments as JSON values. Raises NotACall."""
    reader = _Reader(text)
    name = reader.take(_NAME)
    reader.expect("(")
    arguments: dict[str, Any] = {}
    while not reader.skips(")"):
        key = reader.take(_KEYWORD)
        reader.expect("=")
        arguments[key] = reader.value(0)
        if not reader.skips(","):
            reader.expect(")")
            break
    return name, arguments


def read_literal(text: str) -> Any:
    """A value as Python writes it, `{'a': None}`. Raises NotACall."""
    reader = _Reader(text)
    value = reader.value(0)
    if not reader.at_end:
        raise NotACall(text[:20])
    return value


class _Reader:
    """A cursor in a text. Methods skip white space first and raise NotACall."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._index = 0

    @property
    def at_end(self) -> bool:
        self._skip_space()
        return self._index == len(self._text)

    def take(self, pattern: re.Pattern[str]) -> str:
        return self._match(pattern)[0]

    def skips(self, character: str) -> bool:
        self._skip_space()
        if not self._text.startswith(character, self._index):
            return False
        self._index += len(character)
        return True

    def expect(self, character: str) -> None:
        if not self.skips(character):
            raise NotACall(character)

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise NotACall("nested too deeply")
        self._skip_space()
        first = self._text[self._index : self._index + 1]
        if first in {"'", '"'}:
            found = self._match(_STRING)
            text = _ESCAPE.sub(_unescaped, found[1] if found[1] is not None else found[2])
            # Two escapes may form one character; half a surrogate pair is replaced.
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if first in {"[", "("}:
            return self._items(_CLOSING[first], depth)
        if first == "{":
            return self._object(depth)
        if first.isalpha():
            word = self.take(_KEYWORD)
            if word not in _WORDS:
                raise NotACall(word)
            return _WORDS[word]
        return _number(self.take(_NUMBER))

    def _items(self, closing: str, depth: int) -> list[Any]:
        self._index += 1
        items: list[Any] = []
        while not self.skips(closing):
            items.append(self.value(depth + 1))
            if not self.skips(","):
                self.expect(closing)
                break
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        self._index += 1
        members: dict[str, Any] = {}
        while not self.skips("}"):
            key = self.value(depth + 1)
            self.expect(":")
            members[key if isinstance(key, str) else str(key)] = self.value(depth + 1)
            if not self.skips(","):
                self.expect("}")
                break
        return members

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._index)
        self._index = self._index if found is None else found.end()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        self._skip_space()
        found = pattern.match(self._text, self._index)
        if found is None or found.end() == self._index:
            raise NotACall(self._text[self._index : self._index + 20])
        self._index = found.end()
        return found


def _number(text: str) -> int | float:
    """The number; NotACall beyond `_MAX_DIGITS`, because int() takes quadratic time."""
    if len(text) > _MAX_DIGITS:
        raise NotACall("too long a number")
    try:
        value = float(text) if any(character in text for character in ".eE") else int(text)
    except ValueError as exc:
        raise NotACall(text) from exc
    if value in (float("inf"), float("-inf")):
        raise NotACall(text)
    return value


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPED.get(code, code)
