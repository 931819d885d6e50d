"""One call written as a JSON object, `{"name": ..., "arguments": {...}}`, read while it streams."""

from __future__ import annotations

import enum
import json
from typing import Any

from container.api.openai.parts import CallArguments, CallStart, Part
from container.api.openai.tool_parsers.json_value import ValueScanner

_NAMES = frozenset(["name", "tool_name"])
_ARGUMENTS = frozenset(["arguments", "parameters", "args"])
_SPACE = " \t\r\n"


class _At(enum.Enum):
    START = enum.auto()
    KEY = enum.auto()
    COLON = enum.auto()
    VALUE = enum.auto()
    AFTER = enum.auto()


class CallReader:
    """Reads one object. Once the name is known, the arguments pass through as they come.

    `failed` is set when the object is not a call of one of `names`, `started` once a `CallStart` was emitted. `keyed`:
    the object's first key is the name.
    """

    def __init__(self, names: frozenset[str], *, keyed: bool = False) -> None:
        self.done = False
        self.failed = False
        self.started = False
        self._names = names
        self._keyed = keyed
        self._at = _At.START
        self._scanner: ValueScanner | None = None
        self._key: str | None = None
        self._held: list[str] = []
        self._early: str | None = None
        self._emitted_arguments = False
        self._parts: list[Part] = []
        self._unclaimed: list[str] = []

    @property
    def raw(self) -> str:
        """The object's text so far, "" once a `CallStart` was emitted."""
        return "" if self.started else "".join(self._unclaimed)

    def push(self, text: str, start: int) -> tuple[list[Part], int]:
        """The parts of `text[start:]`, and the index up to which it was read: all, unless `done` or `failed`."""
        index = start
        while index < len(text) and not (self.done or self.failed):
            if self._scanner is None:
                index = self._punctuation(text, index)
                continue
            end = self._scanner.scan(text, index)
            self._keep(text[index:end])
            index = end
            if self._scanner.done:
                self._scanner = None
                self._end_value()
        if not self.started:
            self._unclaimed.append(text[start:index])
        parts, self._parts = self._parts, []
        return parts, index

    def _punctuation(self, text: str, index: int) -> int:
        """Skip one character, or stay where a key or a value begins."""
        character = text[index]
        if character in _SPACE:
            return index + 1
        match self._at, character:
            case _At.START, "{":
                self._at = _At.KEY
            case _At.COLON, ":":
                self._at = _At.VALUE
            case (_At.KEY, '"') | (_At.VALUE, _):
                self._held = []
                self._scanner = ValueScanner()
                return index
            case _At.AFTER, ",":
                self._at = _At.KEY
            case ((_At.AFTER | _At.KEY), "}"):
                self._finish()
            case _:
                self.failed = True
                return index
        return index + 1

    def _keep(self, text: str) -> None:
        passing = self.started and self._at is _At.VALUE and self._key in _ARGUMENTS
        if passing and (self._emitted_arguments or (not self._held and text[:1] == "{")):
            self._emit(text)
        else:
            self._held.append(text)

    def _emit(self, text: str) -> None:
        self._emitted_arguments = True
        self._parts.append(CallArguments(text))

    def _end_value(self) -> None:
        text = "".join(self._held)
        if self._at is _At.KEY:
            self._key = _string(text)
            self.failed = self._key is None
            self._at = _At.COLON
            if self._keyed and not self.started:
                self._end_name(self._key)
                self._key = "arguments"
            return
        self._at = _At.AFTER
        if self._key in _NAMES and not self.started:
            self._end_name(_string(text))
        elif self._key in _ARGUMENTS and not self._emitted_arguments:
            self._end_arguments(text)

    def _end_name(self, name: str | None) -> None:
        if name is None or name not in self._names:
            self.failed = True
            return
        self.started = True
        self._parts.append(CallStart(name))
        if self._early is not None:
            self._emit(self._early)

    def _end_arguments(self, text: str) -> None:
        """Emit arguments that could not pass through: those before the name, or in a JSON string."""
        written = _string(text)
        known = written if written is not None else "{}" if text == "null" else text
        if self.started:
            self._emit(known)
        else:
            self._early = known

    def _finish(self) -> None:
        if not self.started:
            self.failed = True
            return
        if not self._emitted_arguments:
            self._emit("{}")
        self.done = True


def _string(text: str) -> str | None:
    """The value of a JSON string, None for anything else."""
    if text[:1] != '"':
        return None
    try:
        value: Any = json.loads(text, strict=False)
    except ValueError:
        return None
    # An escape can spell half a surrogate pair, which is not valid text.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
