"""The web worker's end of the socket: one DEALER, read when its descriptor is readable, and an inbox for each request.

Everything here runs in the worker's single thread on gevent; sends never block. A greenlet watches the status board:
when the engine dies or a new one starts (a new epoch), every open request ends with `Failed`, and the client connects
to the new engine's socket. The socket's path contains the epoch, so no frame of an old engine can reach a request of a
new one. The same greenlet wakes waiting requests, so that they check their client and their deadline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
import zmq
from gevent.event import AsyncResult
from gevent.queue import SimpleQueue

from container.generation.joined_outputs import can_join, joined
from container.run_dir import EngineDir
from handler.seam.protocol import (
    Abort,
    AdapterMessage,
    AdapterReply,
    EngineMessage,
    ErrorCode,
    Failed,
    FromEngine,
    GenerateRequest,
    StepOutput,
    ToEngine,
    decode_from_engine,
    encode,
)
from handler.seam.status import Phase, StatusBoard

logger = logging.getLogger(__name__)

# Seconds between checks of the engine, and between wake-ups of waiting requests.
_TICK_S = 0.1
# libev's EV_READ.
_READ = 1


class Reply:
    """The engine's messages for one request, in order, ending with one terminal message."""

    def __init__(self, request_id: str, on_close: Callable[[Reply], None]) -> None:
        self.request_id = request_id
        self.inbox: SimpleQueue[FromEngine | None] = SimpleQueue()
        self.finished = False
        self.lost = False
        self._num_tokens = 0
        self._ended = False
        self._woken = False
        self._on_close = on_close

    def take(self, message: FromEngine) -> bool:
        """Put a message into the inbox; False if it is late or a duplicate. Lost tokens fail the request."""
        if self._ended:
            return False
        if isinstance(message, StepOutput):
            if message.start < self._num_tokens:
                return False
            if message.start > self._num_tokens:
                self.lost = True
                message = Failed(self.request_id, ErrorCode.INTERNAL, "tokens of the answer were lost in transit")
            else:
                self._num_tokens += len(message.token_ids)
        self._ended = is_terminal(message)
        self._woken = True
        self.inbox.put(message)
        return True

    def tick(self) -> None:
        """Wake the waiting request, unless a message has since the last tick.

        A timeout on each `get` would cost 7 % of the web side's time for a token.
        """
        woken, self._woken = self._woken, False
        if not woken and self.inbox.empty():
            self.inbox.put(None)

    def messages(self) -> Iterator[FromEngine | None]:
        """The messages up to the terminal one; None at each `tick` without one, so that the caller can check.

        Outputs that have arrived while the caller was busy come as one.
        """
        while not self.finished:
            message = self.inbox.get()
            if isinstance(message, StepOutput) and not self.inbox.empty():
                message = self._with_following(message)
            self.finished = message is not None and is_terminal(message)
            yield message
            if not self.inbox.empty():
                # Neither a full inbox nor a client that keeps up makes this greenlet wait; yield so that /ping can run.
                gevent.sleep(0)

    def _with_following(self, first: StepOutput) -> StepOutput:
        outputs, num_tokens = [first], len(first.token_ids)
        while not self.inbox.empty():
            following = self.inbox.peek()
            if not isinstance(following, StepOutput) or not can_join(first, following, num_tokens):
                break
            outputs.append(following)
            num_tokens += len(following.token_ids)
            self.inbox.get()
        return joined(outputs)

    def close(self) -> None:
        """Forget the request; abort it in the engine unless it has finished. Safe to call twice."""
        self._on_close(self)


def is_terminal(message: FromEngine) -> bool:
    """Whether nothing may follow for the request."""
    return not isinstance(message, StepOutput) or message.finish_reason is not None


class EngineClient:
    """Submits requests to one engine and routes its messages back."""

    def __init__(self, engine_dir: EngineDir, on_stray: Callable[[], None] = lambda: None) -> None:
        """`on_stray` is called for each message that is late, a duplicate, or for no open request."""
        self.engine_dir = engine_dir
        self.board = StatusBoard(engine_dir.board)
        self._context = zmq.Context()
        self._socket: Any = None
        self._readable: Any = None
        self._epoch = 0
        self._replies: dict[str, Reply] = {}
        self._asked: dict[str, AsyncResult[AdapterReply | None]] = {}
        self._on_stray = on_stray
        self._watcher = gevent.spawn(self._watch)

    @property
    def num_outstanding(self) -> int:
        """Unfinished requests of the engine. The board counts all workers but lags a step; our replies are exact."""
        return max(len(self._replies), self.board["running"] + self.board["waiting"])

    def submit(self, request: GenerateRequest) -> Reply:
        """Send a request. If the engine cannot be reached the reply's first message is `Failed`."""
        self._follow_epoch()
        reply = Reply(request.request_id, self._forget)
        self._replies[request.request_id] = reply
        if not self._send([request]):
            reply.take(Failed(request.request_id, ErrorCode.ENGINE_DEAD, "the engine is not running"))
        return reply

    def ask(self, message: AdapterMessage) -> AsyncResult[AdapterReply | None]:
        """Send a message about an adapter. The result is the reply, or None if the engine stops before it."""
        self._follow_epoch()
        answer: AsyncResult[AdapterReply | None] = AsyncResult()
        self._asked[message.request_id] = answer
        if not self._send([message]):
            self._asked.pop(message.request_id, None)
            answer.set(None)
        return answer

    def _send(self, messages: Sequence[ToEngine]) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(encode(messages), zmq.NOBLOCK)
        except zmq.Again:
            return False
        # ZeroMQ's descriptor is edge-triggered: sending may have consumed the edge of a frame that has arrived.
        self._read()
        return True

    def _forget(self, reply: Reply) -> None:
        known = self._replies.pop(reply.request_id, None)
        # After a lost message the engine is still generating.
        if known is not None and (reply.lost or not reply.finished):
            reply.finished = True
            self._send([Abort(reply.request_id)])

    def _follow_epoch(self) -> None:
        """Connect to the engine of the board's epoch if it is new and ready."""
        epoch = self.board["epoch"]
        if epoch == self._epoch or self.board.phase is not Phase.READY:
            return
        self._lose_engine()
        self._epoch = epoch
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{self.engine_dir.socket(epoch)}")
        self._readable = gevent.get_hub().loop.io(self._socket.get(zmq.FD), _READ)
        self._readable.start(self._read)

    def _lose_engine(self) -> None:
        """Disconnect and fail every open request: the next engine knows none of them."""
        self._disconnect()
        self._epoch = 0
        for reply in self._replies.values():
            reply.take(Failed(reply.request_id, ErrorCode.ENGINE_DEAD, "the engine stopped"))
        self._replies.clear()
        for answer in self._asked.values():
            answer.set(None)
        self._asked.clear()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._readable.stop()
            self._readable.close()
            self._socket.close()
        self._socket = self._readable = None

    def _read(self) -> None:
        """Deliver every frame that has arrived. pyzmq's own green sockets poll ZeroMQ five times as often."""
        while self._socket is not None:
            try:
                messages = decode_from_engine(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except ValueError:  # msgspec's errors, and UnicodeDecodeError for a string that is not UTF-8
                logger.error("the engine sent a frame that cannot be decoded")
                continue
            for message in messages:
                self._deliver(message)

    def _deliver(self, message: EngineMessage) -> None:
        if isinstance(message, AdapterReply):
            asked = self._asked.pop(message.request_id, None)
            if asked is None:
                self._on_stray()
            else:
                asked.set(message)
            return
        reply = self._replies.get(message.request_id)
        # No reply: the request was aborted while these tokens were in transit.
        if reply is None or not reply.take(message):
            self._on_stray()

    def _watch(self) -> None:
        """Fail open requests as soon as their engine is gone; wake the others."""
        while True:
            gevent.sleep(_TICK_S)
            if self._epoch and (self.board["epoch"] != self._epoch or self.board.phase is not Phase.READY):
                self._lose_engine()
            for reply in self._replies.values():
                reply.tick()

    def close(self) -> None:
        """Stop watching, fail open requests and close the socket."""
        self._watcher.kill()
        self._lose_engine()
        self._context.term()
        self.board.close()
