"""The loop of the hook process: calls in, messages out, aborts, limits."""

from __future__ import annotations

import time
from functools import partial

from container.hooks.call import Abort, Call, Credit, Failed, Reason, ToHost
from container.hooks.host.call_table import CallTable
from container.hooks.host.host_socket import HostSocket
from container.hooks.host.running_call import RunningCall
from container.hooks.host.tasks import Tasks
from container.hooks.host.threads import Threads
from container.hooks.user_code.hook import Hook
from handler.seam.status import StatusBoard

# Seconds between heartbeats, and between looks for workers that have gone.
_TICK_S, _LOOK_S = 0.2, 1.0
# A hook is stuck once every thread, that of /ping, or its event loop has been held this long for nobody.
STUCK_S = 30.0


class HookStuck(Exception):
    """Only a new process helps."""


class Host:
    """Runs `hook` for all web workers. `run` returns once `stopping` is set."""

    def __init__(self, hook: Hook, path: str, board: StatusBoard, *, num_threads: int, max_calls: int) -> None:
        """Binds `path`. `max_calls` bounds the calls that clients wait for; more are refused."""
        self.stopping = False
        self._board = board
        self._socket = HostSocket(path)
        self._runner = Tasks(hook, num_threads) if hook.is_async else Threads(hook, num_threads)
        self._num_threads = num_threads
        self._max_calls = max_calls
        self._calls = CallTable()
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
            # A drain waits for these.
            self._board["running"] = self._calls.num_waited
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
        elif isinstance(message, Abort):
            self._abort(worker, message.call_id)
        elif isinstance(message, Credit):
            running = self._calls.find(worker, message.call_id)
            if running is not None:
                running.grant(message.num_parts)

    def _start(self, worker: bytes, call: Call) -> None:
        send = partial(self._socket.send, worker)
        if not call.is_ping and self._calls.num_waited >= self._max_calls:
            send(Failed(call.call_id, Reason.OVERLOADED, "the hook is overloaded"))
            return
        running = RunningCall(call, send)
        self._calls.add(worker, running)
        # Before the code runs: a drain that saw none would close the engines to it.
        self._board["running"] = self._calls.num_waited
        self._runner.start(running, partial(self._end, worker))

    def _end(self, worker: bytes, running: RunningCall) -> None:
        """Called from the thread of the call."""
        self._calls.end(worker, running)
        self._socket.send(worker, None)

    def _abort(self, worker: bytes, call_id: str) -> None:
        running = self._calls.abort(worker, call_id)
        if running is not None:
            self._runner.drop(running)

    def _abort_lost(self) -> None:
        """A worker that has gone waits for nothing."""
        if not self._socket.lost:
            return
        for worker, running in self._calls.waited():
            if worker in self._socket.lost:
                self._abort(worker, running.call.call_id)
        self._socket.lost.clear()

    def _look(self, now: float) -> None:
        """Ask after each worker that waits; see whether calls that nobody waits for hold everything."""
        for worker in {worker for worker, _ in self._calls.waited()}:
            self._socket.send(worker, None)
        what = self._runner.held(self._calls.left_since(now - STUCK_S), STUCK_S)
        if what:
            raise HookStuck(f"the hook is stuck: {what} is held by calls that nobody waits for")

    def _fail_open(self) -> None:
        """The process ends: tell whoever still waits."""
        for worker, running in self._calls.waited():
            self._socket.send(worker, Failed(running.call.call_id, Reason.NOT_READY, "the hook is being stopped"))
            self._abort(worker, running.call.call_id)
