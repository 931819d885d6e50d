"""Finds a marker such as `<tool_call>` in a text that arrives in pieces."""

from __future__ import annotations


class Marker:
    """Passes the text before the marker on, never a part of the marker."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that can be shown, and what follows the marker; None while it has not been found."""
        text = self._held + text
        before, found, after = text.partition(self._marker)
        if found:
            self._held = ""
            return before, after
        size = overlap(text, self._marker)
        self._held = text[len(text) - size :]
        return text[: len(text) - size], None

    def flush(self) -> str:
        """The text held back so far; call it at the end of the text."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, marker: str) -> int:
    """The length of the longest end of `text` that begins `marker` and is not all of it."""
    longest = min(len(text), len(marker) - 1)
    return next((size for size in range(longest, 0, -1) if marker.startswith(text[-size:])), 0)


# White space beyond this is passed on as it comes.
_MAX_SPACE = 256


class Gap:
    """Drops white space next to calls, which only separates them from text."""

    def __init__(self, *, after_call: bool = False) -> None:
        self._space = ""
        self._after_call = after_call

    def show(self, text: str) -> str:
        """The part of the content that can be shown; trailing white space waits for what follows."""
        if self._after_call:
            text = text.lstrip()
        if not text:
            return ""
        self._after_call = False
        text = self._space + text
        shown = text if len(self._space) > _MAX_SPACE else text.rstrip()
        self._space = text[len(shown) :]
        return shown

    def call(self) -> None:
        """A call is at this point of the text."""
        self._space = ""
        self._after_call = True

    def flush(self) -> str:
        """The white space held back so far; call it at the end of the text."""
        space, self._space = self._space, ""
        return space
