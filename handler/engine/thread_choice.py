"""How many threads compute a step, by what steps with more or fewer of them take. Pure Python.

Beside a busy neighbour two threads may take longer than one: each waits for the other's core at every barrier. Nothing
says so beforehand, so a number of threads is tried for a few steps, and kept if it is faster. Steps of about the same
number of tokens share what is learned; others may need another number, down to one for steps too small to split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Steps tried together: a tenth of a second holds several slices of a scheduler.
_TRIED_S, _TRIED_STEPS = 0.1, 3
# A trial must be this much faster to be kept.
_FASTER = 0.95
# Steps that are slower than this times the quickest lately are a reason to try another number.
_SLOWER = 1.25
# After them a trial comes this much sooner.
_SOONER = 16
# Seconds between trials while they fail: at first, and at most. With all threads at work a trial is dear.
_FIRST_S, _FIRST_OF_ALL_S = 0.5, 2.0
_LONGEST_S, _LONGEST_OF_ALL_S = 2.0, 32.0
# Trials of long steps come more rarely, so that they take a small part of the time.
_RARELY = 20


@dataclass(slots=True)
class _Size:
    """What is known about steps of one size. Times are seconds of such steps."""

    number: int
    tried: int = 0
    steps: int = 0
    taken_s: float = 0.0
    quickest_s: float = 0.0
    since_trial_s: float = 0.0
    wait_s: float = field(default=_FIRST_OF_ALL_S)
    goes_up: bool = False

    def start(self, tried: int) -> None:
        """Begin to measure steps, with `tried` threads, or 0 for the usual number."""
        # The first step of a trial still wakes threads up.
        self.tried, self.steps, self.taken_s = tried, -1 if tried else 0, 0.0


class ThreadChoice:
    """The number of threads for each step: `choose`, run the step, then `observe`."""

    def __init__(self, most: int) -> None:
        """At most `most` threads, at least one."""
        self._most = most
        self._usual = most
        self._sizes: dict[int, _Size] = {}

    @property
    def most(self) -> int:
        """The most threads a step may use."""
        return self._most

    def choose(self, num_tokens: int) -> int:
        """Threads for a step of `num_tokens` tokens."""
        if self._most == 1:
            return 1
        size = self._size(num_tokens)
        return size.tried or size.number

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Record a step that succeeded, with the threads last chosen for its size."""
        if self._most == 1:
            return
        size = self._size(num_tokens)
        size.steps += 1
        if size.steps <= 0:
            return
        size.taken_s += seconds
        if size.steps < _TRIED_STEPS or size.taken_s < _TRIED_S:
            return
        mean_s = size.taken_s / size.steps
        if size.tried:
            self._judge(size, mean_s)
        else:
            self._consider(size, mean_s)

    def _consider(self, size: _Size, mean_s: float) -> None:
        """Try another number if these steps have become slow, or the last trial is long ago."""
        size.since_trial_s += size.taken_s
        slow = size.quickest_s > 0 and mean_s > _SLOWER * size.quickest_s
        size.quickest_s = min(mean_s, size.quickest_s or mean_s)
        due_s = size.wait_s / _SOONER if slow else size.wait_s
        if size.since_trial_s < due_s:
            size.start(0)
            return
        size.quickest_s = mean_s  # what the trial must beat
        size.start(self._other(size, slow))

    def _other(self, size: _Size, slow: bool) -> int:
        """Half or twice the threads: half if steps became slow, else in turn."""
        down, up = (size.number + 1) // 2, min(self._most, 2 * size.number)
        size.goes_up = not (slow or size.goes_up)
        if size.number in (down, up):  # at an end
            size.goes_up = size.number == down
        return up if size.goes_up else down

    def _judge(self, size: _Size, mean_s: float) -> None:
        if mean_s < _FASTER * size.quickest_s:
            size.number = self._usual = size.tried
            size.quickest_s = mean_s
            size.wait_s = self._first_s(size)
        else:
            longest_s = _LONGEST_OF_ALL_S if size.number == self._most else _LONGEST_S
            size.wait_s = max(min(2 * size.wait_s, longest_s), _RARELY * size.taken_s)
        size.since_trial_s = 0.0
        size.start(0)

    def _first_s(self, size: _Size) -> float:
        return _FIRST_OF_ALL_S if size.number == self._most else _FIRST_S

    def _size(self, num_tokens: int) -> _Size:
        """Sizes within a quarter of each other count as one. A new one starts with the number last kept."""
        shift = max(0, num_tokens.bit_length() - 3)
        key = (num_tokens >> shift) << shift
        found = self._sizes.get(key)
        if found is None:
            found = self._sizes[key] = _Size(self._usual)
            found.wait_s = self._first_s(found)
        return found
