"""The loop of the hook process: calls in, messages out, aborts, limits."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

from container.hooks.call import Abort, Call, Credit, Failed, FromHost, Reason, ToHost
from container.hooks.host.host_socket import HostSocket
from container.hooks.host.running_call import RunningCall
from container.hooks.host.tasks import Tasks
from container.hooks.host.threads import Threads
from container.hooks.user_code.hook import Hook
from handler.seam.status import StatusBoard

logger = logging.getLogger(__name__)

# Seconds between heartbeats, and between looks for workers that have gone.
_TICK_S, _LOOK_S = 0.2, 1.0
# A hook is stuck once every thread, or its event loop, has been held this long by calls that nobody waits for.
STUCK_S = 30.0


class HookStuck(Exception):
    """Only a new process helps."""


class Host:
    """Runs `hook` for all web workers. `run` returns once `stopping` is set."""

    def __init__(self, hook: Hook, path: str, board: StatusBoard, *, num_threads: int, max_calls: int) -> None:
        """Binds `path`. `max_calls` bounds the calls in flight; more are refused."""
        self.stopping = False
        self._board = board
        self._socket = HostSocket(path)
        self._tasks = Tasks(hook, num_threads)
        self._threads = Threads(hook, num_threads, self._tasks.loop)
        self._is_async = hook.is_async
        self._num_threads = num_threads
        self._max_calls = max_calls
        self._running: dict[tuple[bytes, str], RunningCall] = {}
        self._lock = threading.Lock()
        self._looked_s = 0.0

    def run(self) -> None:
        """Serve until `stopping`. Raises HookStuck."""
        try:
            self._serve()
        finally:
            self._fail_open()
            self._socket.close()

    def _serve(self) -> None:
        while not self.stopping:
            for worker, message in self._socket.receive(_TICK_S):
                self._take(worker, message)
            self._abort_lost()
            self._board["running"] = len(self._running)
            self._board.beat()
            now = time.monotonic()
            if now - self._looked_s >= _LOOK_S:
                self._looked_s = now
                self._look(now)

    def stop(self) -> None:
        """Have `run` return; callable from a signal's handler."""
        self.stopping = True
        self._socket.wake()

    def _take(self, worker: bytes, message: ToHost) -> None:
        if isinstance(message, Call):
            self._start(worker, message)
            return
        running = self._running.get((worker, message.call_id))
        if running is None:
            return
        if isinstance(message, Credit):
            running.grant(message.num_parts)
        elif isinstance(message, Abort):
            running.abort()

    def _start(self, worker: bytes, call: Call) -> None:
        send = partial(self._socket.send, worker)
        if len(self._running) >= self._max_calls and not call.is_ping:
            send(Failed(call.call_id, Reason.OVERLOADED, "the hook is overloaded"))
            return
        running = RunningCall(call, send)
        with self._lock:
            self._running[worker, call.call_id] = running
        runner = self._tasks if self._is_async else self._threads
        runner.start(running, partial(self._end, worker))

    def _end(self, worker: bytes, running: RunningCall) -> None:
        """Called from the thread of the call."""
        with self._lock:
            self._running.pop((worker, running.call.call_id), None)
        self._socket.send(worker, None)

    def _open(self) -> list[tuple[bytes, RunningCall]]:
        with self._lock:
            return [(worker, running) for (worker, _), running in self._running.items()]

    def _abort_lost(self) -> None:
        """A worker that has gone waits for nothing."""
        if not self._socket.lost:
            return
        for worker, running in self._open():
            if worker in self._socket.lost:
                running.abort()
        self._socket.lost.clear()

    def _look(self, now: float) -> None:
        """Ask after each worker that has a call; see whether calls that nobody waits for hold everything."""
        every = self._open()
        blocked_s = self._tasks.blocked_s()
        for worker in {worker for worker, _ in every}:
            self._socket.send(worker, None)
        left = [running for _, running in every if running.started and not running.call.is_ping]
        held = [each for each in left if each.aborted_s is not None and now - each.aborted_s >= STUCK_S]
        num_held = self._tasks.executor.num_left(now - STUCK_S) if self._is_async else len(held)
        # A loop that runs frees itself, if not its threads: each of its calls can be cancelled.
        is_blocked = self._is_async and held and blocked_s >= STUCK_S
        if is_blocked or num_held >= self._num_threads:
            what = "its event loop" if is_blocked else f"each of its {self._num_threads} threads"
            raise HookStuck(f"the hook is stuck: {what} is held by calls that nobody waits for")

    def _fail_open(self) -> None:
        """The process ends: tell whoever still waits."""
        for worker, running in self._open():
            if running.aborted_s is None:
                self._socket.send(worker, _ending(running))
                running.abort()


def _ending(running: RunningCall) -> FromHost:
    return Failed(running.call.call_id, Reason.NOT_READY, "the hook is being stopped")
