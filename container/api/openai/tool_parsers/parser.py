"""What every tool parser does: text in, parts out, in linear time and without ever running the text."""

from __future__ import annotations

from typing import Protocol

from container.api.openai.parts import Part


class ToolParser(Protocol):
    """Reads one answer. Text that turns out not to be a call comes back as content; nothing is lost."""

    def push(self, text: str) -> list[Part]:
        """The parts that became certain with `text`."""

    def flush(self) -> list[Part]:
        """What was held back, at the end of the answer."""
