"""Threads for sync functions of async hooks: the default executor of the one event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from container.hooks.model.open_calls import OpenCalls, open_calls

T = TypeVar("T")

# True in the context of a call for /ping.
is_ping: ContextVar[bool] = ContextVar("hook_is_ping", default=False)


class Executor(ThreadPoolExecutor):
    """Knows for which request each thread runs: a task that is cancelled leaves its thread behind."""

    def __init__(self, num_threads: int) -> None:
        super().__init__(num_threads, "hook-sync")
        # A pool that is busy must not fail the health check.
        self._pings = ThreadPoolExecutor(1, "hook-ping")
        self._held: dict[int, OpenCalls | None] = {}
        self._held_by_pings: dict[int, OpenCalls | None] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run it as soon as a thread is free."""
        function = partial(fn, *args, **kwargs)
        if is_ping.get():
            return self._pings.submit(_run, self._held_by_pings, open_calls.get(), function)
        return super().submit(_run, self._held, open_calls.get(), function)

    def num_left(self, until_s: float, *, pings: bool = False) -> int:
        """Threads that run for requests, or for `pings`, which ended at `until_s` (of time.monotonic()) or before."""
        every = tuple((self._held_by_pings if pings else self._held).values())
        return sum(each is not None and each.ended_s is not None and each.ended_s <= until_s for each in every)


def _run(held: dict[int, OpenCalls | None], request: OpenCalls | None, function: Callable[[], T]) -> T:
    held[threading.get_ident()] = request
    try:
        return function()
    finally:
        del held[threading.get_ident()]
