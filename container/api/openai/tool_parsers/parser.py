"""What every tool parser does: text in, parts out, in linear time and without ever running the text."""

from __future__ import annotations

from typing import Protocol

from container.api.openai.parts import Part


class ToolParser(Protocol):
    """Reads one answer, in pieces of any size; all parts together do not depend on how the text was cut.

    Text that looks like a call but names no tool that was offered comes back as content. Arguments are told as the
    model wrote them: they may be cut short, and need not be valid JSON.
    """

    def push(self, text: str) -> list[Part]:
        """The parts that became certain with `text`."""

    def flush(self) -> list[Part]:
        """What was held back, at the end of the answer."""
