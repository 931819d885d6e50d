"""Tells an engine that hangs from one that is slow, starved of processor time or was frozen together with us."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

# A look that comes later than this counts as this much: whoever kept us from looking kept the engine from moving.
_LONGEST_GAP_S = 0.5
# An engine that is runnable and got less than this share of one processor is starved, not hung...
_STARVED_SHARE = 0.25
# ...but not for ever.
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
        """Seconds that the engine has not moved if that means it hangs, else None.

        `step_limit_s`: what the step under way may take, as the engine itself says.
        """
        now = time.monotonic()
        gap, self._looked_s = now - self._looked_s, now
        if heartbeat_ns != self._heartbeat_ns:
            self._heartbeat_ns, self._silent_s, self._before = heartbeat_ns, 0.0, None
            return None
        self._silent_s += min(gap, _LONGEST_GAP_S)
        if self._before is None and self._silent_s >= _WATCHED_S:
            self._before = _threads(pid)
        limit_s = max(self._limit_s, step_limit_s)
        if self._silent_s < limit_s:
            return None
        if self._silent_s < limit_s * _STARVED_FACTOR and self._starved(pid):
            return None
        return self._silent_s

    def _starved(self, pid: int) -> bool:
        before, after = self._before, _threads(pid)
        if before is None or after is None:
            return False
        return after.runnable and after.cpu_s - before.cpu_s < _STARVED_SHARE * (self._silent_s - _WATCHED_S)


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
