"""The web worker's end of the socket: one DEALER, read when its file descriptor says so, one inbox for each request.

Everything here runs in the worker's single thread on gevent; sends never block. A greenlet watches the
status board: when the engine dies or a new one starts (its epoch rises), every open request ends with `Failed`,
and the client moves to the new engine's socket. The socket's path holds the epoch, so no frame of an old engine
can ever reach a request of a new one. The same greenlet wakes whoever waits for a message, to look around.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import zmq
from gevent.queue import SimpleQueue

from container.run_dir import EngineDir
from handler.seam.protocol import (
    Abort,
    ErrorCode,
    Failed,
    FromEngine,
    GenerateRequest,
    Rejected,
    StepOutput,
    decode_from_engine,
    encode,
)
from handler.seam.status import Phase, StatusBoard

logger = logging.getLogger(__name__)

# How often a waiting request looks whether its client and its engine are still there.
_TICK_S = 0.1
# libev's name for the event that a descriptor can be read.
_READ = 1


class Reply:
    """What the engine sends for one request, in order, ending with one terminal message."""

    def __init__(self, request_id: str, on_close: Callable[[Reply], None]) -> None:
        self.request_id = request_id
        self.inbox: SimpleQueue[FromEngine | None] = SimpleQueue()
        self.finished = False
        self.lost = False
        self._num_tokens = 0
        self._ended = False
        self._on_close = on_close

    def take(self, message: FromEngine) -> bool:
        """Put a message into the inbox; False if it comes late or twice. Tokens that were lost fail the request."""
        if self._ended:
            return False
        if isinstance(message, StepOutput):
            if message.start < self._num_tokens:
                return False
            if message.start > self._num_tokens:
                self.lost = True
                message = Failed(self.request_id, ErrorCode.INTERNAL, "tokens of the answer were lost on their way")
            else:
                self._num_tokens += len(message.token_ids)
        self._ended = is_terminal(message)
        self.inbox.put(message)
        return True

    def tick(self) -> None:
        """Wake whoever waits for a message. A timeout for each message costs 7 % of the web side's time a token."""
        if self.inbox.empty():
            self.inbox.put(None)

    def messages(self) -> Iterator[FromEngine | None]:
        """The messages; None now and then while there is none, so that the caller can look around."""
        while not self.finished:
            message = self.inbox.get()
            self.finished = message is not None and is_terminal(message)
            yield message
            if not self.inbox.empty():
                # Neither the inbox nor a client that reads again would make this greenlet wait; /ping must not either.
                gevent.sleep(0)

    def close(self) -> None:
        """Forget the request; aborts it in the engine unless it has finished. Safe to call twice."""
        self._on_close(self)


def is_terminal(message: FromEngine) -> bool:
    """Whether nothing may follow for the request."""
    return not isinstance(message, StepOutput) or message.finish_reason is not None


class EngineClient:
    """Submits requests to one engine and routes its messages back."""

    def __init__(self, engine_dir: EngineDir, on_stray: Callable[[], None] = lambda: None) -> None:
        """`on_stray` is told of each message that belongs to no open request, comes late or comes twice."""
        self.engine_dir = engine_dir
        self.board = StatusBoard(engine_dir.board)
        self._context = zmq.Context()
        self._socket: Any = None
        self._readable: Any = None
        self._epoch = 0
        self._replies: dict[str, Reply] = {}
        self._on_stray = on_stray
        self._watcher = gevent.spawn(self._watch)

    @property
    def num_outstanding(self) -> int:
        """Requests the engine has to do. The board lags by a step and knows all workers; the replies are exact."""
        return max(len(self._replies), self.board["running"] + self.board["waiting"])

    def submit(self, request: GenerateRequest) -> Reply:
        """Send a request. If the engine cannot be reached the reply's first message is `Failed`."""
        self._follow_epoch()
        reply = Reply(request.request_id, self._forget)
        self._replies[request.request_id] = reply
        if not self._send([request]):
            reply.take(Failed(request.request_id, ErrorCode.ENGINE_DEAD, "the engine is not running"))
        return reply

    def _send(self, messages: list[GenerateRequest] | list[Abort]) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(encode(messages), zmq.NOBLOCK)  # type: ignore[arg-type]
        except zmq.Again:
            return False
        # Sending may have used up the descriptor's news of a frame that has come.
        self._read()
        return True

    def _forget(self, reply: Reply) -> None:
        known = self._replies.pop(reply.request_id, None)
        # An engine whose message was lost still generates.
        if known is not None and (reply.lost or not reply.finished):
            reply.finished = True
            self._send([Abort(reply.request_id)])

    def _follow_epoch(self) -> None:
        """Move to the engine of the board's epoch, if it is another one and ready."""
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
        """Leave the engine and end every request it had: its successor knows none of them."""
        self._disconnect()
        self._epoch = 0
        for reply in self._replies.values():
            reply.take(Failed(reply.request_id, ErrorCode.ENGINE_DEAD, "the engine stopped"))
        self._replies.clear()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._readable.stop()
            self._readable.close()
            self._socket.close()
        self._socket = self._readable = None

    def _read(self) -> None:
        """Deliver every frame that has come. pyzmq's own green sockets ask ZeroMQ five times as often."""
        while self._socket is not None:
            try:
                messages = decode_from_engine(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except ValueError:  # msgspec's errors, and UnicodeDecodeError for a string that is not UTF-8
                logger.error("the engine sent a frame that does not decode")
                continue
            for message in messages:
                self._deliver(message)

    def _deliver(self, message: StepOutput | Rejected | Failed) -> None:
        reply = self._replies.get(message.request_id)
        # Without a reply: tokens of a request that was aborted a moment ago.
        if reply is None or not reply.take(message):
            self._on_stray()

    def _watch(self) -> None:
        """End open requests as soon as the engine that has them is gone; let the others look around."""
        while True:
            gevent.sleep(_TICK_S)
            if self._epoch and (self.board["epoch"] != self._epoch or self.board.phase is not Phase.READY):
                self._lose_engine()
            for reply in self._replies.values():
                reply.tick()

    def close(self) -> None:
        """Stop watching, end what is open and close the socket."""
        self._watcher.kill()
        self._lose_engine()
        self._context.term()
        self.board.close()
