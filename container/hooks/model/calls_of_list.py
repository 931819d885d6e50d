"""The calls of one list: as many at once as the server takes, whatever its limit is and whoever else asks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from container.hooks.model.errors import ModelError

_OVERLOADED = 429


class CallsOfList:
    """Starts `calls` by `submit`, at most `max_at_once` at the same time. `results` are in their order.

    A call that the server has no room for waits until another of the list has ended, and from then on so many fewer run
    at once. A list none of whose calls finds room fails with the server's 429. The first error fails the list; calls
    that have not begun are not begun.
    """

    def __init__(
        self, submit: Callable[[Callable[[], Any]], Future[Any]], calls: Sequence[Callable[[], Any]], max_at_once: int
    ) -> None:
        """Starts the first calls."""
        self.results: Future[list[Any]] = Future()
        self._submit = submit
        self._calls = calls
        self._max_at_once = max_at_once
        self._waiting = deque(range(len(calls)))
        self._found: list[Any] = [None] * len(calls)
        self._num_running = self._num_ended = 0
        self._is_over = False
        # A call may end before `submit` returns, in the same thread.
        self._lock = threading.RLock()
        self._go_on()

    def _go_on(self) -> None:
        """Start what may run now; with nothing left, the list is done."""
        with self._lock:
            while self._waiting and self._num_running < self._max_at_once and not self._is_over:
                self._start(self._waiting.popleft())
            if self._is_over or self._waiting or self._num_running:
                return
            self._is_over = True
        if self.results.set_running_or_notify_cancel():
            self.results.set_result(self._found)

    def _start(self, place: int) -> None:
        self._num_running += 1
        self._submit(self._calls[place]).add_done_callback(partial(self._end, place, self._num_ended))

    def _end(self, place: int, num_ended_before: int, done: Future[Any]) -> None:
        error = done.exception()
        with self._lock:
            self._num_running -= 1
            has_room = self._num_running > 0 or self._num_ended > num_ended_before
            if isinstance(error, ModelError) and error.status == _OVERLOADED and has_room:
                self._max_at_once = max(1, self._num_running)
                self._waiting.appendleft(place)
                error = None
            elif error is None:
                self._num_ended += 1
                self._found[place] = done.result()
            fails_list = error is not None and not self._is_over
            self._is_over = self._is_over or fails_list
        if fails_list and self.results.set_running_or_notify_cancel():
            self.results.set_exception(error)
        self._go_on()
