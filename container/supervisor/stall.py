"""Tells a hung engine from one that is slow, starved of processor time, or was frozen together with PID 1.

A CPU quota slows an engine down without starving it: with half of a processor its silence counts half, and after a cut
from eight processors to half of one, a sixteenth, because its limits are those of steps before the cut.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from handler.seam.processors import usable_cpus

# Cap on the gap between checks: if PID 1 was frozen, the engine probably was too.
_LONGEST_GAP_S = 0.5
# A runnable engine that gets less than this share of one processor is starved...
_STARVED_SHARE = 0.25
# ...and its silence is divided by this. It still counts, because a starved engine can also hang.
_STARVED_FACTOR = 6.0
# Seconds of silence after which processor time is measured.
_WATCHED_S = 1.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Threads(NamedTuple):
    """One process: processor seconds used so far, and whether any thread is running or runnable."""

    cpu_s: float
    runnable: bool


class StallWatch:
    """Checks the heartbeat of one engine, a few times a second. Times are seconds on the monotonic clock."""

    def __init__(self, limit_s: float) -> None:
        """`limit_s`: silence that is always healthy, however short the steps are."""
        self._limit_s = limit_s
        self._heartbeat_ns = 0
        self._looked_s = time.monotonic()
        self._silent_s = 0.0
        self._before: _Threads | None = None
        self._most_cpus = max(1.0, usable_cpus())

    def hung_for_s(self, pid: int, heartbeat_ns: int, step_limit_s: float) -> float | None:
        """Seconds of silence in which the engine could have moved, if they exceed the limits; else None.

        `step_limit_s`: how long the current step may take, as the engine reports it.
        """
        now = time.monotonic()
        gap_s, self._looked_s = now - self._looked_s, now
        if heartbeat_ns != self._heartbeat_ns:
            self._heartbeat_ns, self._silent_s, self._before = heartbeat_ns, 0.0, None
            return None
        self._silent_s += min(gap_s, _LONGEST_GAP_S) / self._slowdown(pid, gap_s)
        return self._silent_s if self._silent_s >= max(self._limit_s, step_limit_s) else None

    def _slowdown(self, pid: int, gap_s: float) -> float:
        """What silence is divided by."""
        starved = _STARVED_FACTOR if self._starved(pid, gap_s) else 1.0
        if self._silent_s < _WATCHED_S:
            return starved
        cpus = usable_cpus()
        self._most_cpus = max(self._most_cpus, cpus)
        return max(starved, self._most_cpus / cpus)

    def _starved(self, pid: int, gap_s: float) -> bool:
        """Whether the engine was runnable since the last check but got too little processor time.

        Each check is judged by itself: an engine may be starved first and hang later.
        """
        if self._silent_s < _WATCHED_S:
            return False
        before, after = self._before, _threads(pid)
        self._before = after
        if before is None or after is None:
            return False
        return after.runnable and after.cpu_s - before.cpu_s < _STARVED_SHARE * gap_s


def _threads(pid: int) -> _Threads | None:
    """None if the process is gone or /proc cannot be read."""
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        # The name, in parentheses, may contain anything. Field 0 after it is the state, 11 and 12 are the times.
        fields = [stat.rpartition(")")[2].split() for stat in stats]
        ticks = sum(int(values[11]) + int(values[12]) for values in fields)
    except (OSError, IndexError, ValueError):
        return None
    return _Threads(ticks / _TICKS_PER_S, any(values[0] == "R" for values in fields))
