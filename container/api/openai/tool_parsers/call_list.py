"""Consecutive JSON calls, with or without a JSON array around them."""

from __future__ import annotations

from container.api.openai.parts import Content, Part
from container.api.openai.tool_parsers.call_reader import CallReader

# Models separate calls by commas, semicolons (Llama) or line breaks. A bracket after a call may begin a mark.
_BEFORE = " \t\r\n,;[]"
_AFTER = " \t\r\n,;]"


class CallList:
    """Reads calls until other text follows. Text that turns out not to be a call becomes content."""

    def __init__(self, names: frozenset[str], *, keyed: bool = False) -> None:
        self.started = False
        self._names = names
        self._keyed = keyed
        self._reader: CallReader | None = None
        self._skipped = ""

    def push(self, text: str) -> tuple[list[Part], str | None]:
        """The parts, and the text that follows the calls; None while more calls may come."""
        parts: list[Part] = []
        index = 0
        while True:
            if self._reader is None:
                index = self._skip(text, index)
                if index == len(text):
                    return parts, None
                if text[index] != "{":
                    return parts, self._skipped + text[index:]
                self._reader = CallReader(self._names, keyed=self._keyed)
            found, index = self._reader.push(text, index)
            parts += found
            self.started = self.started or self._reader.started
            if self._reader.failed:
                return [*parts, *self.flush()], text[index:]
            if not self._reader.done:
                return parts, None
            self._reader = None

    def flush(self) -> list[Part]:
        """The text held back, which is not a call."""
        raw = self._skipped + ("" if self._reader is None else self._reader.raw)
        self._reader, self._skipped = None, ""
        return [Content(raw)] if raw else []

    def _skip(self, text: str, index: int) -> int:
        """Skip brackets and separators, but keep them until a call has started."""
        start, between = index, _AFTER if self.started else _BEFORE
        while index < len(text) and text[index] in between:
            index += 1
        self._skipped = "" if self.started else self._skipped + text[start:index]
        return index
