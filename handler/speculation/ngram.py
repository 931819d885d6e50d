"""`NgramLookup`: what followed the last time that a text ended like this. Pure Python.

Prompt lookup (Saxena 2023; TGI's n-gram speculation): answers that quote, edit or fill in their prompt repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence

# The n-grams that are indexed, the longest first: a longer one is a better guess of where the text goes on.
_SIZES = (4, 2, 1)
# Tokens before the end that are compared to tell how well a place fits.
MAX_LENGTH = 32
# After a wrong guess at a place that fitted so well, one token was probably replaced by another.
_TRUSTED = 4
# Tokens of a prompt, its last ones, that are indexed: each takes 2 microseconds of a step and 360 bytes.
_MAX_INDEXED = 16_384


class NgramLookup:
    """A growing text, the latest earlier place that ends as it does, and how many tokens agree there.

    A new token costs a few dictionary operations, whatever the length of the text.
    """

    def __init__(self) -> None:
        self.length = 0
        self._num_seen = 0
        # Where the text goes on after the place; 0 while there is none.
        self._next = 0
        self._ends: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in _SIZES}

    @property
    def num_seen(self) -> int:
        """Tokens taken in so far."""
        return self._num_seen

    def skip(self, text: Sequence[int]) -> None:
        """Take in `text` as a whole, such as a prompt: nothing is guessed in it, and what is long ago is forgotten."""
        first = max(0, len(text) - _MAX_INDEXED)
        for size, ends in self._ends.items():
            grams = zip(*(text[first + i : -1] for i in range(size)), strict=False)
            ends.update(zip(grams, range(first + size, len(text)), strict=False))
        self._num_seen = len(text)
        self._find(text)
        self._index(text)

    def guess(self, text: Sequence[int]) -> int | None:
        """The token that should follow `text`, all of which was taken in; None if nothing ends like it."""
        return text[self._next] if self._next else None

    def draft(self, text: Sequence[int], num_tokens: int) -> list[int]:
        """The `num_tokens` tokens that should follow; a place near the end repeats itself."""
        period = text[self._next : self._next + num_tokens] if self._next else []
        return (list(period) * -(-num_tokens // len(period)))[:num_tokens] if period else []

    def push(self, text: Sequence[int]) -> None:
        """Take in the token after those seen: `text[num_seen]`."""
        token_id, follows, length = text[self._num_seen], self._next, self.length
        end = self._num_seen = self._num_seen + 1
        if follows and text[follows] == token_id:
            self._next, self.length = follows + 1, min(length + 1, MAX_LENGTH)
        else:
            self._find(text)
            if self.length < 2 and length >= _TRUSTED and follows + 1 < end:
                self._next, self.length = follows + 1, 0
        self._index(text)

    def _find(self, text: Sequence[int]) -> None:
        end = self._num_seen
        self._next = self.length = 0
        for size, ends in self._ends.items():
            found = ends.get(tuple(text[end - size : end])) if size <= end else None
            if found:
                self._next, self.length = found, _common_end(text, found, end)
                return

    def _index(self, text: Sequence[int]) -> None:
        end = self._num_seen
        for size, ends in self._ends.items():
            if size <= end:
                ends[tuple(text[end - size : end])] = end


def _common_end(text: Sequence[int], one: int, other: int) -> int:
    """How many tokens before the positions `one` and `other` agree, up to `MAX_LENGTH`."""
    length = 0
    while length < min(one, MAX_LENGTH) and text[one - 1 - length] == text[other - 1 - length]:
        length += 1
    return length
