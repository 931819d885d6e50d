"""Async iterators in sync code: each part is made on one event loop, in a thread of its own, when it is asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from container.hooks.model.errors import CallEnded
from container.hooks.model.open_calls import open_calls

# As many as sync calls have by default (HOOK_THREADS): each may stream.
_NUM_THREADS = 64
_END = object()


class _Loop:
    """The loop of all such iterators; it starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_default_executor(ThreadPoolExecutor(_NUM_THREADS, "hook-stream"))
                threading.Thread(target=self._loop.run_forever, name="hook-streams", daemon=True).start()
            return self._loop


_loop = _Loop()


class SteppedParts(Iterator[Any]):
    """The parts of an async iterator, one by one. A request that ends cancels the part it waits for."""

    def __init__(self, parts: AsyncIterator[Any]) -> None:
        self._parts = parts
        self._loop = _loop.start()
        self._task: asyncio.Task[Any] | None = None

    def __next__(self) -> Any:
        """Block until the next part is made. Raises CallEnded, and what the iterator raises."""
        part = self._result(self._next())
        if part is _END:
            raise StopIteration
        return part

    def close(self) -> None:
        """Close the iterator on its loop, also one that has made no part."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _next(self) -> Any:
        self._task = asyncio.current_task()
        return await anext(self._parts, _END)

    async def _close(self) -> None:
        # A cancelled part may still be on its way out, and a generator that runs cannot be closed.
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        close = getattr(self._parts, "aclose", None)
        if close is not None:
            await close()

    def _result(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        request = open_calls.get()
        step = _Step(asyncio.run_coroutine_threadsafe(coroutine, self._loop))
        try:
            if request is not None:
                request.add(step)
            return step.future.result()
        except CallEnded:
            step.end()
            raise
        except CancelledError:
            if request is not None and request.ended_s is not None:
                raise CallEnded from None
            raise RuntimeError("the stream was cancelled") from None
        finally:
            if request is not None:
                request.remove(step)


class _Step:
    """A part that is being made, as `OpenCalls` ends it."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def end(self) -> None:
        """Cancel it."""
        self.future.cancel()
