"""`Acceptance`: how often n-gram guesses come true, by how well the text fitted the place they were taken from.

Pure Python. Each sampled token tests the guess of it, whether that was verified in a draft or not. So what a draft
would bring is known before any is tried, and is still known while none pays.
"""

from __future__ import annotations

from bisect import bisect_right

from handler.speculation.shares import Shares

# Lengths of fit, in tokens, from which a class begins; a fit of 0 is the place after a replaced token.
_CLASSES = (0, 1, 2, 3, 4, 6, 9, 16)
# Share of right guesses of each class, until texts say otherwise.
_FIRST = (0.3, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8)
_LAST = len(_CLASSES) - 1
# Tokens that are less likely than this are not worth the arithmetic.
LEAST_CHANCE = 0.05


class Acceptance:
    """Shares of right guesses of one sequence, which begin with those of the whole engine."""

    def __init__(self, engine: Acceptance | None = None) -> None:
        """Without `engine`, it is the whole engine's."""
        self._shares: Shares = Shares(_FIRST, engine._shares if engine else None)

    def observe(self, length: int, is_right: bool) -> None:
        """Record a guess at a place that fitted by `length` tokens."""
        self._shares.observe(_class(length), is_right)

    def shares(self, length: int, num_tokens: int) -> list[float]:
        """The chance of each token of a draft to be accepted, at a place that fits by `length` tokens.

        The list ends before what is less likely than `LEAST_CHANCE`.
        """
        found: list[float] = []
        at, chance, share = -1, 1.0, 0.0
        for i in range(length, length + num_tokens):
            if at < _LAST and (at < 0 or i >= _CLASSES[at + 1]):
                at = _class(i)
                share = self._shares.share(at)
            chance *= share
            if chance < LEAST_CHANCE:
                break
            found.append(chance)
        return found


def _class(length: int) -> int:
    return bisect_right(_CLASSES, length) - 1
