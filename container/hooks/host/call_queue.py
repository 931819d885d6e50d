"""Calls that wait for a thread, or for the event loop, oldest first."""

from __future__ import annotations

import threading
from collections.abc import Callable

from container.hooks.host.running_call import RunningCall

Done = Callable[[RunningCall], None]


class CallQueue:
    """Thread-safe. A call that nobody waits for any more leaves at once, and its body with it."""

    def __init__(self) -> None:
        self._waiting: dict[RunningCall, Done] = {}
        self._lock = threading.Lock()

    def put(self, running: RunningCall, done: Done) -> None:
        """Append a call, with what is to be called at its end."""
        with self._lock:
            self._waiting[running] = done

    def take(self) -> tuple[RunningCall, Done] | None:
        """The oldest call; None if those that came have been dropped."""
        with self._lock:
            oldest = next(iter(self._waiting), None)
            return None if oldest is None else (oldest, self._waiting.pop(oldest))

    def drop(self, running: RunningCall) -> None:
        """Remove a call, if it still waits."""
        with self._lock:
            self._waiting.pop(running, None)
