"""Where in a region of JSON a string is open: a mark that begins in one is text."""

from __future__ import annotations

from collections.abc import Sequence


class JsonStrings:
    """Reads a text whose beginning may be cut off again, each character once.

    Strings stand in quotes, or between one of the `delimiters`, pairs of texts.
    """

    def __init__(self, delimiters: Sequence[tuple[str, str]] = ()) -> None:
        self._ends = dict(delimiters) | {'"': '"'}
        self._begins = sorted(self._ends, key=len, reverse=True)
        # For each character that has been read and is still there, whether it begins in a string.
        self._inside: list[bool] = []
        # What ends the string that is open, "" if none is.
        self._end = ""
        self._longest = max((len(text) for pair in delimiters for text in pair), default=1)
        # Text that does not begin as JSON has no strings; None until it begins.
        self._is_json: bool | None = None

    @property
    def num_read(self) -> int:
        """Characters of the text that have been read."""
        return len(self._inside)

    def read(self, text: str, end: int) -> None:
        """Read on up to `end`. What may be part of a delimiter waits for more."""
        while (at := len(self._inside)) < end:
            if self._is_json is None and not text[at].isspace():
                self._is_json = text[at] in {"{", "[", *(begin[0] for begin in self._begins)}
            size = self._delimiter_at(text, at, end) if self._is_json else -1
            if size == 0:
                return
            if size < 0:
                size = 2 if self._end == '"' and text[at] == "\\" else 1
                self._inside += [bool(self._end)] * size

    def inside(self, position: int) -> bool:
        """Whether the character at `position` stands in a string."""
        return self._inside[position] if position < len(self._inside) else bool(self._end)

    def cut(self, size: int) -> None:
        """The first characters of the text are gone."""
        del self._inside[:size]

    def _delimiter_at(self, text: str, at: int, end: int) -> int:
        """Read a quote or delimiter; its size, 0 if more text must tell, -1 if there is none."""
        piece = text[at : min(at + self._longest, end)]
        for mark in [self._end] if self._end else self._begins:
            if piece.startswith(mark):
                self._inside += [bool(self._end)] + [True] * (len(mark) - 1)
                self._end = "" if self._end else self._ends[mark]
                return len(mark)
            if len(piece) < len(mark) and mark.startswith(piece):
                return 0
        return -1
