"""Calls of the model that are open, so that they end when nobody waits for the request whose hook made them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from container.hooks.model.errors import CallEnded


class Endable(Protocol):
    """What `OpenCalls` ends."""

    def end(self) -> None:
        """Make whoever waits for it raise. Does not block; safe to call twice."""


class OpenCalls:
    """What one request waits for. Thread-safe. `ended_s`: when it ended, of time.monotonic(); None: it has not."""

    def __init__(self) -> None:
        self.ended_s: float | None = None
        self._open: set[Endable] = set()
        self._lock = threading.Lock()

    def add(self, call: Endable) -> None:
        """Raises CallEnded if the request has ended."""
        with self._lock:
            if self.ended_s is not None:
                raise CallEnded
            self._open.add(call)

    def remove(self, call: Endable) -> None:
        """From now on `end` leaves `call` alone: its connection may serve another request."""
        with self._lock:
            self._open.discard(call)

    def end(self) -> None:
        """Nobody waits any more: end every call, and refuse new ones."""
        with self._lock:
            if self.ended_s is None:
                self.ended_s = time.monotonic()
            for call in self._open:
                call.end()


# Those of the request that runs in this context; None outside of one. Threads and tasks of a call inherit it.
open_calls: ContextVar[OpenCalls | None] = ContextVar("open_calls", default=None)


@contextmanager
def own_calls() -> Iterator[None]:
    """Calls made in the block end with the request, and if the block raises or is cancelled. Raises CallEnded."""
    request, own = open_calls.get(), OpenCalls()
    if request is not None:
        request.add(own)
    token = open_calls.set(own)
    try:
        yield
    except BaseException:
        own.end()
        raise
    finally:
        open_calls.reset(token)
        if request is not None:
            request.remove(own)


@contextmanager
def nobodys_calls() -> Iterator[None]:
    """Calls made in the block are several requests', so that they outlive the one that runs here."""
    token = open_calls.set(None)
    try:
        yield
    finally:
        open_calls.reset(token)
