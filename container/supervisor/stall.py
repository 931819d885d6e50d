"""Tells an engine that hangs from one that is slow, starved of processor time or was frozen together with us."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

# A look that comes later than this counts as this much: whoever kept us from looking kept the engine from moving.
_LONGEST_GAP_S = 0.5
# Time in which a runnable engine gets less than this share of one processor is time it was starved...
_STARVED_SHARE = 0.25
# ...and counts as so much less; but not as nothing, since an engine can hang and be starved.
_STARVED_FACTOR = 6.0
# Silence after which the processor time that it takes is watched.
_WATCHED_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Threads(NamedTuple):
    """Of one process: processor seconds so far, and whether any thread runs or could."""

    cpu_s: float
    runnable: bool


class StallWatch:
    """Looks at the heartbeat of one engine, a few times a second. Times are those of the monotonic clock."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: silence that is healthy whatever the steps take."""
        self._limit_s = limit_s
        self._heartbeat_ns = 0
        self._looked_s = time.monotonic()
        self._silent_s = 0.0
        self._before: _Threads | None = None

    def hung_for_s(self, pid: int, heartbeat_ns: int, step_limit_s: float) -> float | None:
        """Seconds that the engine could have moved and did not if that means it hangs, else None.

        `step_limit_s`: what the step under way may take, as the engine itself says.
        """
        now = time.monotonic()
        gap_s, self._looked_s = now - self._looked_s, now
        if heartbeat_ns != self._heartbeat_ns:
            self._heartbeat_ns, self._silent_s, self._before = heartbeat_ns, 0.0, None
            return None
        self._silent_s += min(gap_s, _LONGEST_GAP_S) / (_STARVED_FACTOR if self._starved(pid, gap_s) else 1.0)
        return self._silent_s if self._silent_s >= max(self._limit_s, step_limit_s) else None

    def _starved(self, pid: int, gap_s: float) -> bool:
        """Whether it wanted to run since the last look and could not. Each look is judged by itself: what starved
        an engine may end, and the engine hang or be frozen from then on."""
        if self._silent_s < _WATCHED_S:
            return False
        before, after = self._before, _threads(pid)
        self._before = after
        if before is None or after is None:
            return False
        return after.runnable and after.cpu_s - before.cpu_s < _STARVED_SHARE * gap_s


def _threads(pid: int) -> _Threads | None:
    """None if the process is gone or the system does not tell."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        # The name, in parentheses, may hold anything; after it come the state and, from the 12th on, the times.
        fields = [stat.rpartition(")")[2].split() for stat in stats]
        ticks = sum(int(values[11]) + int(values[12]) for values in fields)
    except (OSError, IndexError, ValueError):
        return None
    return _Threads(ticks / _TICKS_PER_S, any(values[0] == "R" for values in fields))
