"""`Acceptance`: how often guesses come true, by how well the text fitted the place they were taken from. Pure Python.

Each sampled token tests the guess of it, whether that was verified in a draft or not. So what a draft would bring is
known before any is tried, and is still known while none pays.
"""

from __future__ import annotations

from bisect import bisect_right

# Lengths of fit, in tokens, from which a class begins; a fit of 0 is the place after a replaced token.
_CLASSES = (0, 1, 2, 3, 4, 6, 9, 16)
# Share of right guesses of each class, until texts say otherwise.
_FIRST = (0.3, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8)
_LAST = len(_CLASSES) - 1
# Tokens that are less likely than this are not worth the arithmetic.
LEAST_CHANCE = 0.05
# Weights of what is known beforehand, in guesses; shares of the past that are kept at each guess.
_PRIOR, _KEPT = 4.0, 0.97
_ENGINE_PRIOR, _ENGINE_KEPT = 20.0, 0.998


class Acceptance:
    """Shares of right guesses of one sequence, which begin with those of the whole engine."""

    def __init__(self, engine: Acceptance | None = None) -> None:
        """Without `engine`, it is the whole engine's."""
        self._engine = engine
        self._prior, self._kept = (_PRIOR, _KEPT) if engine else (_ENGINE_PRIOR, _ENGINE_KEPT)
        self._right = [0.0] * len(_CLASSES)
        self._all = [0.0] * len(_CLASSES)

    def observe(self, length: int, is_right: bool) -> None:
        """Record a guess at a place that fitted by `length` tokens."""
        self._observe(_class(length), is_right)

    def _observe(self, at: int, is_right: bool) -> None:
        self._right[at] = self._right[at] * self._kept + is_right
        self._all[at] = self._all[at] * self._kept + 1
        if self._engine is not None:
            self._engine._observe(at, is_right)

    def shares(self, length: int, num_tokens: int) -> list[float]:
        """The chance of each token of a draft to be accepted, at a place that fits by `length` tokens.

        The list ends before what is less likely than `LEAST_CHANCE`.
        """
        found: list[float] = []
        at, chance, share = -1, 1.0, 0.0
        for i in range(length, length + num_tokens):
            if at < _LAST and (at < 0 or i >= _CLASSES[at + 1]):
                at = _class(i)
                share = self._share(at)
            chance *= share
            if chance < LEAST_CHANCE:
                break
            found.append(chance)
        return found

    def _share(self, at: int) -> float:
        before = _FIRST[at] if self._engine is None else self._engine._share(at)
        return (self._right[at] + self._prior * before) / (self._all[at] + self._prior)


def _class(length: int) -> int:
    return bisect_right(_CLASSES, length) - 1
