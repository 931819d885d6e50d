"""The calls of the process: those somebody waits for, and those that hold a thread for nobody."""

from __future__ import annotations

import threading

from container.hooks.host.running_call import RunningCall

Key = tuple[bytes, str]


class CallTable:
    """Calls by worker and call id. Thread-safe."""

    def __init__(self) -> None:
        self._waited: dict[Key, RunningCall] = {}
        self._left: set[RunningCall] = set()
        self._lock = threading.Lock()

    def add(self, worker: bytes, running: RunningCall) -> None:
        """Somebody waits for `running`."""
        with self._lock:
            self._waited[worker, running.call.call_id] = running

    def find(self, worker: bytes, call_id: str) -> RunningCall | None:
        """The call, if somebody waits for it."""
        with self._lock:
            return self._waited.get((worker, call_id))

    def abort(self, worker: bytes, call_id: str) -> RunningCall | None:
        """Nobody waits for the call any more: abort it, and keep it only if it has begun. None: it has ended."""
        with self._lock:
            running = self._waited.pop((worker, call_id), None)
            if running is not None and running.abort():
                self._left.add(running)
            return running

    def end(self, worker: bytes, running: RunningCall) -> None:
        """`running` has ended. It may have been aborted before it began."""
        key = (worker, running.call.call_id)
        with self._lock:
            self._left.discard(running)
            if self._waited.get(key) is running:
                del self._waited[key]

    def waited(self) -> list[tuple[bytes, RunningCall]]:
        """Calls that somebody waits for, each with its worker."""
        with self._lock:
            return [(worker, running) for (worker, _), running in self._waited.items()]

    def left_since(self, until_s: float) -> list[RunningCall]:
        """Calls that go on though they were aborted at `until_s` (of time.monotonic()) or before."""
        with self._lock:
            left = tuple(self._left)
        return [each for each in left if each.aborted_s is not None and each.aborted_s <= until_s]

    @property
    def num_waited(self) -> int:
        """How many calls somebody waits for, without those for /ping."""
        with self._lock:
            return sum(not running.call.is_ping for running in self._waited.values())
