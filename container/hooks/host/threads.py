"""Runs calls of sync hooks: a bounded pool of threads, and one more for /ping."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from container.hooks.host.call_queue import CallQueue, Done
from container.hooks.host.output import end_lines, request_id
from container.hooks.host.running_call import Aborted, RunningCall, pieces
from container.hooks.model.caller import current_caller
from container.hooks.model.open_calls import open_calls
from container.hooks.user_code.hook import Hook, HookAnswer


class Threads:
    """A call has its thread until its last part is made, also when nobody waits any more: no thread can be stopped."""

    def __init__(self, hook: Hook, num_threads: int) -> None:
        self._hook = hook
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, "hook")
        self._queue = CallQueue()
        # A pool that is busy must not fail the health check.
        self._pings = ThreadPoolExecutor(1, "hook-ping")
        self._ping_queue = CallQueue()

    def start(self, running: RunningCall, done: Done) -> None:
        """Run the call as soon as a thread is free; `done` is called at its end, from that thread."""
        is_ping = running.call.is_ping
        pool, calls = (self._pings, self._ping_queue) if is_ping else (self._pool, self._queue)
        calls.put(running, done)
        pool.submit(copy_context().run, self._run_next, calls)

    def drop(self, running: RunningCall) -> None:
        """Nobody waits any more: never run the call if it waits for a thread."""
        (self._ping_queue if running.call.is_ping else self._queue).drop(running)

    def held(self, left: list[RunningCall], _limit_s: float) -> str:
        """What the calls `left`, which have run too long for nobody, keep from every other call; "": nothing."""
        if any(running.call.is_ping for running in left):
            return "its health check"
        return f"each of its {self._num_threads} threads" if len(left) >= self._num_threads else ""

    def _run_next(self, calls: CallQueue) -> None:
        found = calls.take()
        if found is not None:
            self._run(*found)

    def _run(self, running: RunningCall, done: Done) -> None:
        request_id.set(running.call.request_id)
        open_calls.set(running.open_calls)
        current_caller.set(running.call.caller)
        try:
            if running.begin():
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
        assert isinstance(found.body, Iterator)
        try:
            _stream(found, found.body, running)
        finally:
            close = getattr(found.body, "close", None)
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
