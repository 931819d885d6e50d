"""Splits `<think>...</think>` from the answer of a thinking model, while it streams."""

from __future__ import annotations

from container.text.stop_strings import StopStrings

OPEN, CLOSE = "<think>", "</think>"


class ReasoningSplitter:
    """`opened` says that the prompt already ends with <think>, as several templates write it."""

    def __init__(self, *, opened: bool) -> None:
        self._thinking = opened
        self._undecided = "" if not opened else None
        self._close = StopStrings([CLOSE], keep=False)
        self._after_close = False

    def push(self, text: str) -> tuple[str, str]:
        """`(reasoning, content)` that became certain with `text`."""
        if self._undecided is not None:
            self._undecided += text
            start = self._undecided.lstrip()
            if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
                return "", ""
            text, self._undecided = self._undecided, None
            if start.startswith(OPEN):
                self._thinking = True
                text = start[len(OPEN) :]
        if not self._thinking:
            return "", self._content(text)
        pushed = self._close.push(text)
        if self._close.matched is None:
            return pushed, ""
        self._thinking, self._after_close = False, True
        rest = self._close.remainder
        return pushed, self._content(rest)

    def _content(self, text: str) -> str:
        """Templates put blank lines between reasoning and answer; they belong to neither."""
        if self._after_close:
            text = text.lstrip("\n")
            self._after_close = not text
        return text

    def flush(self) -> tuple[str, str]:
        """What was held back, at the end of the answer."""
        if self._undecided:
            return "", self._undecided
        return (self._close.flush(), "") if self._thinking else ("", "")
