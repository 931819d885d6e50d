"""Splits `<think>...</think>` from a reasoning model's answer while it streams."""

from __future__ import annotations

from container.api.openai.tool_parsers.marker import Gap, Marker

OPEN, CLOSE = "<think>", "</think>"


class ReasoningSplitter:
    """Reasoning is the text before `</think>`, if the answer begins with `<think>` or the prompt has `opened` it.

    White space around the marks belongs to neither reasoning nor content.
    """

    def __init__(self, *, opened: bool) -> None:
        self.thinking = opened
        self._undecided: str | None = None if opened else ""
        self._close = Marker(CLOSE)
        self._gap = Gap(after_call=True)
        self._after_close = False

    def push(self, text: str) -> tuple[str, str]:
        """The `(reasoning, content)` that `text` completes."""
        if self._undecided is not None:
            text = self._undecided + text
            start = text.lstrip()
            if len(start) < len(OPEN) and OPEN.startswith(start):
                self._undecided = text
                return "", ""
            self._undecided = None
            self.thinking = start.startswith(OPEN)
            text = start.removeprefix(OPEN) if self.thinking else text
        if not self.thinking:
            return "", self._content(text)
        reasoning, rest = self._close.push(text)
        reasoning = self._gap.show(reasoning)
        if rest is None:
            return reasoning, ""
        self.thinking, self._after_close = False, True
        return reasoning, self._content(rest)

    def _content(self, text: str) -> str:
        if self._after_close:
            text = text.lstrip()
            self._after_close = not text
        return text

    def flush(self) -> tuple[str, str]:
        """The text held back so far; call it at the end of the answer."""
        if self._undecided is not None:
            return "", self._undecided
        return (self._gap.show(self._close.flush()) + self._gap.flush(), "") if self.thinking else ("", "")
