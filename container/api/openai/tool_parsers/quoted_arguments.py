"""Gemma's arguments, `{city:<|"|>Paris<|"|>,days:3}`: keys are bare, a mark stands for the quotes of strings."""

from __future__ import annotations

import json
import re
from typing import Any

from container.api.openai.tool_parsers.marker import overlap
from container.api.openai.tool_parsers.typed_value import as_json
from container.api.schema.schema_types import types_of

_MAX_DEPTH = 32
_SPACE = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ANY_CHARACTER = re.compile(r"(?s:.)")
_IN_STRING = re.compile(r'["\\]')
_BARE = re.compile(r"[^,{}\[\]]+")
_KEY = re.compile(r"[^:{}\[\],]+")
_ANY: frozenset[str] = frozenset()


class NotArguments(ValueError):
    """The text is no object of this form."""


class QuotedArguments:
    """Finds the end of the object in a text that arrives in pieces; each character is read once."""

    def __init__(self, quotes: str) -> None:
        self._quotes = quotes
        self._outside = re.compile(f'{re.escape(quotes)}|["{{}}\\[\\]]')
        self._closing = re.compile(re.escape(quotes))
        self._text: list[str] = []
        self._held = ""
        self._depth = 0
        self._inside = ""
        self._escaped = False

    @property
    def raw(self) -> str:
        """The object's text so far."""
        return "".join(self._text) + self._held

    def push(self, text: str) -> str | None:
        """The text after the object; None while it goes on."""
        text, index = self._held + text, 0
        # What ends the text may begin the mark, which may hold a quote itself.
        size = overlap(text, self._quotes)
        while index < len(text):
            found = self._next(text, index)
            if found is None or found.start() >= len(text) - size:
                self._held = text[len(text) - size :]
                self._text.append(text[: len(text) - size])
                return None
            index = found.end()
            self._take(found[0])
            if not self._depth:
                self._held = ""
                self._text.append(text[:index])
                return text[index:]
        self._held = ""
        self._text.append(text)
        return None

    def _next(self, text: str, index: int) -> re.Match[str] | None:
        if self._escaped:
            return _ANY_CHARACTER.match(text, index)
        if self._inside == '"':
            return _IN_STRING.search(text, index)
        if self._inside:
            return self._closing.search(text, index)
        return self._outside.search(text, index)

    def _take(self, found: str) -> None:
        if self._escaped:
            self._escaped = False
        elif found == "\\":
            self._escaped = True
        elif self._inside:
            self._inside = ""
        elif found in {self._quotes, '"'}:
            self._inside = found
        else:
            self._depth += 1 if found in "{[" else -1


def quoted_as_json(text: str, quotes: str, schema: dict[str, Any]) -> str:
    """The object as JSON text. Raises NotArguments."""
    reader = _Reader(text, quotes, schema)
    found = reader.object(0)
    if reader.rest.strip():
        raise NotArguments(reader.rest[:20])
    return found


class _Reader:
    """A cursor in a text. The schema tells the types of the outermost arguments."""

    def __init__(self, text: str, quotes: str, schema: dict[str, Any]) -> None:
        self._text = text
        self._index = 0
        self._quotes = quotes
        self._schema = schema

    @property
    def rest(self) -> str:
        return self._text[self._index :]

    def object(self, depth: int) -> str:
        self._expect("{")
        members: list[str] = []
        while not self._skips("}"):
            key = self._key()
            self._expect(":")
            types = _ANY if depth else types_of(self._schema, key)
            members.append(f"{json.dumps(key, ensure_ascii=False)}: {self._value(types, depth + 1)}")
            if not self._skips(","):
                self._expect("}")
                break
        return "{" + ", ".join(members) + "}"

    def _array(self, depth: int) -> str:
        self._expect("[")
        items: list[str] = []
        while not self._skips("]"):
            items.append(self._value(_ANY, depth + 1))
            if not self._skips(","):
                self._expect("]")
                break
        return "[" + ", ".join(items) + "]"

    def _value(self, types: frozenset[str], depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise NotArguments("nested too deeply")
        self._skip_space()
        if self._skips(self._quotes):
            written = self._until_quotes()
            return as_json(written, types) if types and "string" not in types else _dumps(written)
        first = self._text[self._index : self._index + 1]
        if first == '"':
            return _dumps(self._string())
        if first == "{":
            return self.object(depth)
        if first == "[":
            return self._array(depth)
        bare = self._match(_BARE).strip()
        return _dumps(bare) if types == {"string"} else as_json(bare, types)

    def _key(self) -> str:
        if self._skips(self._quotes):
            return self._until_quotes()
        if self._skips('"'):
            self._index -= 1
            return self._string()
        return self._match(_KEY).strip()

    def _string(self) -> str:
        """A string as in JSON, which a forced call may hold."""
        try:
            return str(json.loads(self._match(_STRING), strict=False))
        except ValueError as exc:
            raise NotArguments(str(exc)) from exc

    def _until_quotes(self) -> str:
        end = self._text.find(self._quotes, self._index)
        if end < 0:
            raise NotArguments("an open string")
        written = self._text[self._index : end]
        self._index = end + len(self._quotes)
        return written

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._index)
        if found is None:
            raise NotArguments(self._text[self._index : self._index + 20])
        self._index = found.end()
        return found[0]

    def _skips(self, text: str) -> bool:
        self._skip_space()
        if not self._text.startswith(text, self._index):
            return False
        self._index += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._skips(text):
            raise NotArguments(text)

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._index)
        self._index = self._index if found is None else found.end()


def _dumps(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
