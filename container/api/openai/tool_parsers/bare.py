"""Calls that are the whole answer, `{"name": ..., "parameters": {...}}`: Llama 3, and models trained on no form."""

from __future__ import annotations

from container.api.openai.parts import Content, Part, joined
from container.api.openai.tool_parsers.call_list import CallList


class BareParser:
    """Reads calls from the first character on; after any other text, the rest is content.

    `tag` may precede the calls.
    """

    def __init__(self, names: frozenset[str], tag: str = "") -> None:
        self._tag = tag
        self._waiting: str | None = ""
        self._calls: CallList | None = CallList(names)

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        if self._waiting is not None:
            text = self._waiting + text
            begun = text.lstrip()
            if len(begun) < len(self._tag) and self._tag.startswith(begun):
                self._waiting = text
                return []
            self._waiting = None
            text = begun.removeprefix(self._tag) if self._tag and begun.startswith(self._tag) else text
        if self._calls is None:
            return joined([Content(text)])
        parts, rest = self._calls.push(text)
        if rest is not None:
            self._calls = None
            parts = [*parts, Content(rest)]
        return joined(parts)

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer."""
        waiting, self._waiting = self._waiting, None
        parts: list[Part] = [Content(waiting or "")]
        return joined(parts + (self._calls.flush() if self._calls is not None else []))
