"""How long a healthy step may take at most, judged by those that went well. Pure Python.

A fixed limit is wrong for somebody: a step of 256 prompt tokens takes 0.3 s with a small model and minutes with a large
one on few cores. PID 1 takes an engine for hung when a step takes `FACTOR` times what steps of its size took.
"""

from __future__ import annotations

FACTOR = 10.0
# A freak among the steps loses half its weight in 70 others of its size.
_DECAY = 0.99


class HangLimit:
    """The slowest step, lately, for each size; sizes are powers of two of the number of tokens."""

    def __init__(self) -> None:
        self._slowest_s: dict[int, float] = {}

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A step of `num_tokens` tokens went well."""
        size = num_tokens.bit_length()
        self._slowest_s[size] = max(seconds, self._slowest_s.get(size, 0.0) * _DECAY)

    def limit_s(self, num_tokens: int) -> float:
        """Seconds after which a step of `num_tokens` tokens cannot be healthy; 0 while nothing is known.

        A size that never ran is judged by the nearest smaller one, as if time grew with the tokens, or by the nearest
        larger one as it is.
        """
        size = num_tokens.bit_length()
        known = [other for other in self._slowest_s if other <= size]
        if known:
            nearest = max(known)
            return FACTOR * self._slowest_s[nearest] * float(1 << (size - nearest))
        return FACTOR * self._slowest_s[min(self._slowest_s)] if self._slowest_s else 0.0
