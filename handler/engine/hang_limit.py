"""The time after which a step counts as hung, derived from the steps that succeeded. Pure Python.

No fixed limit fits all: a step of 256 prompt tokens takes 0.3 s with a small model and minutes with a large one on few
cores. PID 1 restarts an engine whose step takes `FACTOR` times as long as recent steps of its size.
"""

from __future__ import annotations

FACTOR = 10.0
# Decay per step: an outlier's weight halves within 70 steps of its size.
_DECAY = 0.99


class HangLimit:
    """The slowest recent step of each size. Sizes are powers of two of the number of tokens."""

    def __init__(self) -> None:
        self._slowest_s: dict[int, float] = {}

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Record a step of `num_tokens` tokens that succeeded."""
        size = num_tokens.bit_length()
        self._slowest_s[size] = max(seconds, self._slowest_s.get(size, 0.0) * _DECAY)

    def limit_s(self, num_tokens: int) -> float:
        """Seconds after which a step of `num_tokens` tokens counts as hung; 0 while no step has run.

        The limit of a size that never ran is extrapolated in proportion to tokens from the nearest smaller size, or
        taken unchanged from the nearest larger one.
        """
        size = num_tokens.bit_length()
        known = [other for other in self._slowest_s if other <= size]
        if known:
            nearest = max(known)
            return FACTOR * self._slowest_s[nearest] * float(1 << (size - nearest))
        return FACTOR * self._slowest_s[min(self._slowest_s)] if self._slowest_s else 0.0
