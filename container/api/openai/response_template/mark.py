"""One mark of a template: literal texts or a regular expression, searched in bounded time."""

from __future__ import annotations

import time
from typing import Any

import regex

# A mark that is longer is none. It bounds what a stream holds back, and the text of one search.
MAX_MARK_CHARS = 1024
# CPU seconds of one search, and more for each character of a text that is searched as a whole.
_LIMIT_S, _LIMIT_S_PER_CHAR = 0.05, 1e-6
# CPU seconds of all searches in one answer, and more for each of its characters.
_ANSWER_S, _ANSWER_S_PER_CHAR = 1.0, 2e-5
# What makes a match depend on the text around it.
_LOOKS_AROUND = regex.compile(r"\(\?(?:[=!]|<[=!])|\\[bBAZGKmM]|(?<!\[)\^|\$")


class SlowPattern(Exception):
    """A search took longer than its limit, or the searches of one answer together did."""


class SearchTime:
    """The CPU time that is left for the patterns of one answer."""

    def __init__(self) -> None:
        self._left_s = _ANSWER_S

    def extend(self, num_chars: int) -> None:
        """The answer has more characters."""
        self._left_s += num_chars * _ANSWER_S_PER_CHAR

    def search(self, mark: Mark, text: str, start: int, end: int, *, partial: bool) -> Any:
        """As `Mark.search`."""
        if mark.literals:
            return mark.search(text, start, end, partial=partial)
        begun_s = time.thread_time()
        found = mark.search(text, start, end, partial=partial)
        self._left_s -= time.thread_time() - begun_s
        if self._left_s < 0:
            raise SlowPattern(mark.source)
        return found


class Mark:
    """`literals` are the texts, empty for a pattern. `source` is the pattern as the template has it."""

    def __init__(self, pattern: str, *, source: str = "", literals: tuple[str, ...] = ()) -> None:
        """Raises regex.error. `pattern` is compiled as transformers does: `.` takes line breaks."""
        self.source = source
        self.literals = literals
        self._pattern = regex.compile(pattern, regex.DOTALL)
        self.names = frozenset(self._pattern.groupindex)
        # Whether a match in a text is one in any longer text too.
        self.is_local = bool(literals) or _LOOKS_AROUND.search(pattern) is None
        # A literal that no other one extends is certain as soon as it is complete.
        self.is_certain = bool(literals) and not any(a != b and a.startswith(b) for a in literals for b in literals)

    def search(self, text: str, start: int, end: int, *, partial: bool) -> Any:
        """The first match in `text[start:end]`, or with `partial` perhaps one that the end cuts; else None.

        Raises SlowPattern.
        """
        if self.literals:
            return self._pattern.search(text, start, end, partial=partial)
        try:
            return self._pattern.search(text, start, end, partial=partial, timeout=_LIMIT_S)
        except TimeoutError as exc:
            raise SlowPattern(self.source) from exc

    def last_end(self, text: str) -> int | None:
        """Where the last match in `text` ends. Raises SlowPattern."""
        return max((match.end() for match in self.all(text)), default=None)

    def all(self, text: str) -> list[Any]:
        """All matches in `text`, one after the other. Raises SlowPattern."""
        try:
            return list(self._pattern.finditer(text, timeout=_LIMIT_S + _LIMIT_S_PER_CHAR * len(text)))
        except TimeoutError as exc:
            raise SlowPattern(self.source) from exc
