"""The arguments of one call as JSON text, while they stream: control characters in strings are escaped."""

from __future__ import annotations

import json
import re

_IN_STRING = re.compile(r'["\\\x00-\x1f]')


class ArgumentText:
    """Escapes the control characters that a model writes as they are; JSON allows none in a string.

    Which characters they are is certain, so nothing is guessed. All else passes as it was written.
    """

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False

    def push(self, text: str) -> str:
        """The text as it is to be sent; its pieces may be cut anywhere."""
        pieces: list[str] = []
        index = 0
        while index < len(text):
            if self._escaped:
                self._escaped = False
                pieces.append(_escape(text[index])[1:] if text[index] < " " else text[index])
                index += 1
                continue
            found = _IN_STRING.search(text, index) if self._in_string else None
            end = found.start() if found is not None else len(text) if self._in_string else text.find('"', index)
            end = len(text) if end < 0 else end
            pieces.append(text[index:end])
            if end < len(text):
                pieces.append(self._special(text[end]))
            index = end + 1
        return "".join(pieces)

    def _special(self, character: str) -> str:
        if character == '"':
            self._in_string = not self._in_string
        elif character == "\\":
            self._escaped = True
        else:
            return _escape(character)
        return character


def _escape(character: str) -> str:
    """`\\n` for a line break."""
    return json.dumps(character)[1:-1]
