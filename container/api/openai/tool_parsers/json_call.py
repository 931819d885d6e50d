"""One call written as a JSON object, `{"name": ..., "arguments": {...}}`, read while it streams."""

from __future__ import annotations

import msgspec

from container.api.openai.parts import CallArguments, CallStart, Content, Part

_NAME_KEYS = {"name", "function"}
_ARGUMENT_KEYS = {"arguments", "parameters"}


class JsonCall:
    """Feed it from the opening brace on; `done` once that is closed, and `rest` is what came after.

    Arguments are passed on as the model writes them, once the name is known. An object without a name is no call: its
    end, or `flush`, gives its text back as content.
    """

    def __init__(self, index: int) -> None:
        self.done = False
        self.name: str | None = None
        self._index = index
        self._text = ""
        self._place = 0
        self._depth = 0
        self._in_string = self._escaped = self._after_colon = self._started = False
        self._string_start = 0
        self._key: str | None = None
        self._value_start: int | None = None
        self._arguments: tuple[int, int] | None = None
        self._sent = 0

    @property
    def rest(self) -> str:
        """What followed the closing brace."""
        return self._text[self._place :]

    def push(self, text: str) -> list[Part]:
        """Parts that became certain."""
        self._text += text
        while self._place < len(self._text) and not self.done:
            self._step(self._text[self._place])
            self._place += 1
        if self.name is None:
            return [Content(self._text[: self._place])] if self.done else []
        parts: list[Part] = [] if self._started else [CallStart(self._index, self.name)]
        self._started = True
        fragment = self._fragment()
        if fragment:
            parts.append(CallArguments(self._index, fragment))
        return parts

    def flush(self) -> list[Part]:
        """The text of an object that never became a call."""
        return [] if self.done or self.name is not None or not self._text else [Content(self._text)]

    def _step(self, character: str) -> None:
        if self._in_string:
            self._step_in_string(character)
        elif character == '"':
            self._in_string, self._string_start = True, self._place + 1
            self._start_value()
        elif character in "{[":
            self._depth += 1
            if self._depth > 1:
                self._start_value()
        elif character in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._end_value()
                self.done = True
        elif self._depth == 1 and character == ":":
            self._after_colon = True
        elif self._depth == 1 and character == ",":
            self._end_value()
        elif not character.isspace():
            self._start_value()

    def _step_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            if self._depth == 1:
                self._end_string(_unquoted(self._text[self._string_start : self._place]))

    def _end_string(self, text: str) -> None:
        if not self._after_colon:
            self._key = text
        elif self._key in _NAME_KEYS and self.name is None:
            self.name = text

    def _start_value(self) -> None:
        if self._after_colon and self._value_start is None:
            self._value_start = self._place

    def _end_value(self) -> None:
        if self._key in _ARGUMENT_KEYS and self._value_start is not None:
            self._arguments = (self._value_start, self._place)
        self._key, self._after_colon, self._value_start = None, False, None

    def _fragment(self) -> str:
        """Arguments not passed on yet; a string that holds JSON, as some models write, only when it is whole."""
        if self._arguments is not None:
            start, end = self._arguments
            raw = self._text[start:end].rstrip()
            whole = _unquoted(raw[1:-1]) if raw.startswith('"') else raw
        elif self._key in _ARGUMENT_KEYS and self._value_start is not None:
            whole = self._text[self._value_start : self._place]
            if whole.startswith('"'):
                return ""
        else:
            return ""
        fragment = whole[self._sent :]
        self._sent = max(self._sent, len(whole))
        return fragment


def _unquoted(raw: str) -> str:
    try:
        return str(msgspec.json.decode(f'"{raw}"'))
    except msgspec.DecodeError:
        return raw
