"""Finds the end of a JSON value in a text that arrives in pieces."""

from __future__ import annotations

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[\s,}\]]")


class ValueScanner:
    """Counts brackets and skips strings; all else goes unchecked. Each character is read once."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._scalar: bool | None = None

    def scan(self, text: str, start: int) -> int:
        """The index up to which `text[start:]` belongs to the value; `done` is set if the value ends there.

        A number or word ends before the next character, any other value with its own last one.
        """
        if start >= len(text):
            return start
        if self._scalar is None:
            self._scalar = text[start] not in '"{['
        if self._scalar:
            end = _SCALAR_END.search(text, start)
            self.done = end is not None
            return len(text) if end is None else end.start()
        while start < len(text) and not self.done:
            start = self._string(text, start) if self._in_string else self._outside(text, start)
        return start

    def _string(self, text: str, start: int) -> int:
        if self._escaped:
            self._escaped = False
            return start + 1
        found = _IN_STRING.search(text, start)
        if found is None:
            return len(text)
        if found[0] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.done = self._depth == 0
        return found.end()

    def _outside(self, text: str, start: int) -> int:
        found = _OUTSIDE.search(text, start)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
            self.done = self._depth == 0
        return found.end()
