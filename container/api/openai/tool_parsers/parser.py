"""The protocol of all tool parsers: text in, parts out, in linear time and without ever running the text."""

from __future__ import annotations

from typing import Protocol

from container.api.openai.parts import Part


class ToolParser(Protocol):
    """Reads one answer in pieces of any size; the joined parts do not depend on how the text was cut.

    Text that looks like a call but names none of the request's tools is content. Arguments are passed on as the model
    wrote them: they may be cut short, and need not be valid JSON.
    """

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""

    def flush(self) -> list[Part]:
        """The parts held back so far; call it at the end of the answer."""
