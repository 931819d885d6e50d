"""Text of one kind, thoughts or content, over all its regions."""

from __future__ import annotations


class Spoken:
    """White space at the beginning and end of a region belongs to its marks; `join` stands between regions."""

    def __init__(self, join: str | None) -> None:
        self._join = "\n" if join is None else join
        self._said = False
        self._at_start = True
        self._space = ""

    def begin(self) -> None:
        """A region begins: what waited at the end of the last one is dropped."""
        self._at_start, self._space = True, ""

    def push(self, text: str, *, strips: bool) -> str:
        """What of the text can be shown now."""
        if strips:
            text = text.lstrip() if self._at_start else self._space + text
            shown = text.rstrip()
            self._space = text[len(shown) :]
            text = shown
        if not text:
            return ""
        joined = self._join + text if self._at_start and self._said else text
        self._at_start, self._said = False, True
        return joined

    def resume(self) -> None:
        """The text so far was the prompt's: the region goes on, and nothing has been said."""
        self._said, self._space = False, ""
