"""Runs calls of sync hooks: a bounded pool of threads, and one more for /ping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from container.hooks.host.output import end_lines, request_id
from container.hooks.host.running_call import Aborted, RunningCall, pieces
from container.hooks.model.caller import current_caller
from container.hooks.model.open_calls import open_calls
from container.hooks.user_code.hook import Hook, HookAnswer


class Threads:
    """A call has its thread until its last part is made, also when nobody waits any more: no thread can be stopped."""

    def __init__(self, hook: Hook, num_threads: int, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` runs bodies that are async iterators."""
        self._hook = hook
        self._loop = loop
        self._pool = ThreadPoolExecutor(num_threads, "hook")
        # A pool that is busy must not fail the health check.
        self._pings = ThreadPoolExecutor(1, "hook-ping")

    def start(self, running: RunningCall, done: Callable[[RunningCall], None]) -> None:
        """Run the call as soon as a thread is free; `done` is called at its end, from that thread."""
        pool = self._pings if running.call.is_ping else self._pool
        pool.submit(copy_context().run, self._run, running, done)

    def _run(self, running: RunningCall, done: Callable[[RunningCall], None]) -> None:
        request_id.set(running.call.request_id)
        open_calls.set(running.open_calls)
        current_caller.set(running.call.caller)
        try:
            if running.aborted_s is None:
                running.started = True
                self._answer(running)
        except Aborted:
            pass
        except BaseException as exc:  # noqa: BLE001 - also SystemExit: it ends this call, not the process
            running.fail(exc)
        finally:
            end_lines()
            done(running)

    def _answer(self, running: RunningCall) -> None:
        found = self._hook.ping() if running.call.is_ping else self._hook.call(running.request)
        assert isinstance(found, HookAnswer)
        if isinstance(found.body, bytes):
            running.send_head(found, found.body, last=True)
            return
        parts = found.body if isinstance(found.body, Iterator) else _from_async(found.body, self._loop)
        try:
            _stream(found, parts, running)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()


def _stream(answer: HookAnswer, parts: Iterator[bytes], running: RunningCall) -> None:
    """Send the head with the first part, so that a hook that fails before it still has a status."""
    first = next(parts, b"")
    running.send_head(answer, b"", last=False)
    while True:
        for piece in pieces(first):
            running.wait()
            running.send_part(piece)
        if running.aborted_s is not None:
            raise Aborted
        try:
            first = next(parts)
        except StopIteration:
            break
    running.send_end()


def _from_async(parts: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    async def following() -> bytes | None:
        return await anext(parts, None)

    while (part := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
        yield part
