"""Runs calls of async hooks: one event loop in a thread of its own, a task for each call."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from functools import partial

from container.hooks.host.call_queue import CallQueue, Done
from container.hooks.host.executor import Executor, is_ping
from container.hooks.host.output import end_lines, request_id
from container.hooks.host.running_call import Aborted, RunningCall, pieces
from container.hooks.model.caller import current_caller
from container.hooks.model.open_calls import open_calls
from container.hooks.user_code.hook import Hook, HookAnswer


class Tasks:
    """An abort cancels the task of its call."""

    def __init__(self, hook: Hook, num_threads: int) -> None:
        """Start the loop. `num_threads` run what the hook has of sync functions."""
        self._hook = hook
        self._num_threads = num_threads
        self._queue = CallQueue()
        self.loop = asyncio.new_event_loop()
        self.executor = Executor(num_threads)
        self.loop.set_default_executor(self.executor)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked_s: float | None = None
        threading.Thread(target=self.loop.run_forever, name="hook-loop", daemon=True).start()

    def start(self, running: RunningCall, done: Done) -> None:
        """Run the call; `done` is called at its end, from the loop's thread."""
        self._queue.put(running, done)
        self.loop.call_soon_threadsafe(self._start_next)

    def drop(self, running: RunningCall) -> None:
        """Nobody waits any more: never run the call if it waits for the loop."""
        self._queue.drop(running)

    def held(self, left: list[RunningCall], limit_s: float) -> str:
        """What the calls `left`, which have run too long for nobody, keep from every other call; "": nothing.

        A loop that runs frees itself, if not its threads: each of its calls can be cancelled.
        """
        until_s = time.monotonic() - limit_s
        if self._blocked_s() >= limit_s and left:
            return "its event loop"
        if self.executor.num_left(until_s, pings=True):
            return "its health check"
        is_full = self.executor.num_left(until_s) >= self._num_threads
        return f"each of its {self._num_threads} threads" if is_full else ""

    def _blocked_s(self) -> float:
        """Seconds for which the loop has not run what an earlier call of this asked it to run."""
        now, asked_s = time.monotonic(), self._asked_s
        if asked_s is not None:
            return now - asked_s
        self._asked_s = now
        self.loop.call_soon_threadsafe(self._answer_probe)
        return 0.0

    def _answer_probe(self) -> None:
        self._asked_s = None

    def _start_next(self) -> None:
        found = self._queue.take()
        if found is not None:
            self._start(*found)

    def _start(self, running: RunningCall, done: Done) -> None:
        context = copy_context()
        context.run(request_id.set, running.call.request_id)
        context.run(open_calls.set, running.open_calls)
        context.run(current_caller.set, running.call.caller)
        context.run(is_ping.set, running.call.is_ping)
        task = self.loop.create_task(self._run(running, done), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, running: RunningCall, done: Done) -> None:
        changed = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None

        def wake() -> None:
            changed.set()
            if running.aborted_s is not None:
                task.cancel()

        running.on_change = partial(self.loop.call_soon_threadsafe, wake)
        try:
            if running.begin():
                await self._answer(running, changed)
        except Aborted:
            pass
        except BaseException as exc:  # noqa: BLE001 - also SystemExit: it ends this call, not the loop
            if running.aborted_s is None or not isinstance(exc, asyncio.CancelledError):
                running.fail(exc)
        finally:
            end_lines()
            done(running)

    async def _answer(self, running: RunningCall, changed: asyncio.Event) -> None:
        found = self._hook.ping() if running.call.is_ping else self._hook.call(running.request)
        answer = await found if inspect.isawaitable(found) else found
        assert isinstance(answer, HookAnswer)
        if isinstance(answer.body, bytes):
            running.send_head(answer, answer.body, last=True)
            return
        parts = answer.body if isinstance(answer.body, AsyncIterator) else _in_threads(answer.body)
        try:
            await _stream(answer, parts, running, changed)
        finally:
            close = getattr(parts, "aclose", None)
            if close is not None:
                await close()


async def _stream(
    answer: HookAnswer, parts: AsyncIterator[bytes], running: RunningCall, changed: asyncio.Event
) -> None:
    """Send the head with the first part, so that a hook that fails before it still has a status."""
    first = await anext(parts, b"")
    running.send_head(answer, b"", last=False)
    while True:
        for piece in pieces(first):
            while not running.may_send:
                changed.clear()
                if not running.may_send:
                    await changed.wait()
            running.send_part(piece)
        try:
            first = await anext(parts)
        except StopAsyncIteration:
            break
    running.send_end()


async def _in_threads(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A sync generator of an async hook must not block the loop."""
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        yield part
