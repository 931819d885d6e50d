"""`Shares`: how often guesses of each class come true. Pure Python."""

from __future__ import annotations

# Weights of what is known beforehand, in guesses; shares of the past that are kept at each guess.
_PRIOR, _KEPT = 4.0, 0.97
_ENGINE_PRIOR, _ENGINE_KEPT = 20.0, 0.998


class Shares:
    """Shares of right guesses of one sequence, by class, which begin with those of the whole engine."""

    def __init__(
        self, first: tuple[float, ...], engine: Shares | None = None, engine_prior: float = _ENGINE_PRIOR
    ) -> None:
        """`first` are the shares until texts say otherwise. Without `engine`, it is the whole engine's, for which
        `first` counts as `engine_prior` guesses.
        """
        self._first = first
        self._engine = engine
        self._prior, self._kept = (_PRIOR, _KEPT) if engine else (engine_prior, _ENGINE_KEPT)
        self._right = [0.0] * len(first)
        self._all = [0.0] * len(first)

    def observe(self, at: int, is_right: bool) -> None:
        """Record a guess of class `at`."""
        self._right[at] = self._right[at] * self._kept + is_right
        self._all[at] = self._all[at] * self._kept + 1
        if self._engine is not None:
            self._engine.observe(at, is_right)

    def share(self, at: int) -> float:
        """The chance that a guess of class `at` is right."""
        before = self._first[at] if self._engine is None else self._engine.share(at)
        return (self._right[at] + self._prior * before) / (self._all[at] + self._prior)
