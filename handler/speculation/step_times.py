"""`StepTimes`: what a step of so many rows takes, from the steps that were run. Pure Python."""

from __future__ import annotations

from collections import deque
from statistics import median

# Newest steps of a size that count.
_NUM_KEPT = 5
# Steps after which a size that was not run again is unknown: machine and texts have changed meanwhile.
_STALE_AFTER = 400
# Beyond the largest size that ran, a step is taken to grow by this share of its rows' growth, until it is tried.
_GROWTH = 0.25


class StepTimes:
    """A running estimate of a step's seconds by its number of rows.

    A size that never ran is taken to cost what its neighbours say, and beyond the largest little more than that one:
    trying it once tells.
    """

    def __init__(self) -> None:
        self._kept: dict[int, deque[float]] = {}
        self._last: dict[int, int] = {}
        self._estimates: dict[int, float] = {}
        self._num_steps = 0

    def observe(self, num_rows: int, seconds: float) -> None:
        """Record a step of decodes and drafts."""
        self._num_steps += 1
        kept = self._kept.setdefault(num_rows, deque(maxlen=_NUM_KEPT))
        kept.append(seconds)
        self._last[num_rows] = self._num_steps
        # One slow step, by a neighbour or a kernel's first use, says nothing.
        self._estimates[num_rows] = median(kept) if len(kept) > 2 else min(kept)
        if self._num_steps % _STALE_AFTER == 0:
            self._forget_stale()

    def estimate(self, num_rows: int) -> float:
        """Seconds of a step of `num_rows` rows; 0 while nothing has run."""
        known = self._estimates
        if len(self._kept.get(num_rows, ())) > 2:
            return known[num_rows]
        above = [size for size in known if size >= num_rows]
        below = [size for size in known if size < num_rows]
        if not above:
            largest = max(below, default=num_rows)
            return known.get(largest, 0.0) * (1 + _GROWTH * (num_rows - largest) / largest)
        # A smaller step never takes longer.
        ceiling, size = min((known[size], size) for size in above)
        if num_rows in known or not below:
            return ceiling
        lower = max(below)
        floor = min(known[lower], ceiling)
        return floor + (ceiling - floor) * (num_rows - lower) / (size - lower)

    def _forget_stale(self) -> None:
        for size in [size for size, last in self._last.items() if self._num_steps - last >= _STALE_AFTER]:
            del self._kept[size], self._last[size], self._estimates[size]
