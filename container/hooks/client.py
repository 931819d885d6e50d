"""The web worker's end of the socket to the hook process: one DEALER, and an inbox for each call.

As `container.generation.engine_client`: everything runs in the worker's single thread on gevent, sends never block, and
when the process dies or a new one starts (a new epoch) every open call ends with `Failed`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any

import gevent
import zmq
from gevent.queue import Empty, SimpleQueue

from container.hooks.call import (
    WINDOW,
    Abort,
    Call,
    Credit,
    Failed,
    FromHost,
    Part,
    Reason,
    ToHost,
    decode_from_host,
    encode,
    is_terminal,
)
from container.hooks.card import HookCard, read_card
from container.run_dir import EngineDir
from handler.seam.status import Phase, StatusBoard

logger = logging.getLogger(__name__)

# Seconds between checks of the process.
_TICK_S = 0.1
# libev's EV_READ.
_READ = 1
# What the process does while it takes no call. READY: it has died, or it was starting a moment ago.
_STAGES = {
    Phase.STARTING: "starting",
    Phase.PREPARING: "installing packages",
    Phase.LOADING: "loading",
    Phase.WARMING: "loading",
    Phase.READY: "its process cannot be reached",
    Phase.RESTARTING: "restarting",
    Phase.FAILED: "it has failed",
}
# Parts handed on before the process gets credit for them.
_CREDIT_STEP = WINDOW // 2


class HookReply:
    """The process's messages for one call, in order, ending with one terminal message.

    `finished`: that one has been taken, or the call was closed.
    """

    def __init__(self, call_id: str, send: Callable[[ToHost], bool], forget: Callable[[HookReply], None]) -> None:
        self.call_id = call_id
        self._inbox: SimpleQueue[FromHost] = SimpleQueue()
        self._send = send
        self._forget = forget
        self._ended = self.finished = False
        self._num_parts = 0

    def take(self, message: FromHost) -> None:
        """Put a message into the inbox; nothing after the terminal one."""
        if not self._ended:
            self._ended = is_terminal(message)
            self._inbox.put(message)

    def next(self, timeout_s: float) -> FromHost | None:
        """The next message, None if there is none in time. Each part that is taken lets the process send another."""
        try:
            message: FromHost = self._inbox.get(timeout=timeout_s)
        except Empty:
            return None
        self.finished = is_terminal(message)
        if isinstance(message, Part):
            self._num_parts += 1
            if self._num_parts == _CREDIT_STEP:
                self._send(Credit(self.call_id, self._num_parts))
                self._num_parts = 0
        return message

    def close(self) -> None:
        """Forget the call; abort it unless it has finished. Safe to call twice."""
        self._forget(self)
        if not self.finished:
            self.finished = True
            self._send(Abort(self.call_id))


class HookClient:
    """Sends calls to the hook process and routes its messages back."""

    def __init__(self, directory: EngineDir) -> None:
        """`directory` is the process's; its board exists."""
        self.board = StatusBoard(directory.board)
        self._directory = directory
        self._context = zmq.Context()
        self._socket: Any = None
        self._readable: Any = None
        self._epoch = 0
        self._card: HookCard | None = None
        self._replies: dict[str, HookReply] = {}
        self._watcher = gevent.spawn(self._watch)

    @property
    def card(self) -> HookCard | None:
        """What the hook is; None until it has loaded for the first time. A restart does not change it."""
        if self._card is None and self._directory.card.exists():
            self._card = read_card(self._directory.card)
        return self._card

    @property
    def owns_model(self) -> bool:
        """Whether no engine runs, as the hook has a model of its own. False while that is not known."""
        return self.card is not None and self.card.owns_model

    @property
    def takes_predict(self) -> bool:
        """Whether POST / and /predict are the hook's. False while that is not known: then no engine runs yet."""
        return self.card is not None and self.card.takes_predict

    @property
    def overrides_ping(self) -> bool:
        """Whether the hook answers /ping."""
        return self.card is not None and self.card.overrides_ping

    @property
    def why_not_ready(self) -> str:
        """Why no call is taken now, in words for a client: never a path."""
        if self.board["draining"]:
            return "the hook is not ready: draining"
        return f"the hook is not ready: {_STAGES[self.board.phase]}"

    def call(self, make: Callable[[str], Call]) -> HookReply:
        """Send the call that `make` makes of its id. If the process cannot be reached the first message is `Failed`."""
        self._follow_epoch()
        reply = HookReply(secrets.token_hex(8), self._send, self._drop)
        self._replies[reply.call_id] = reply
        if not self._send(make(reply.call_id)):
            reply.take(Failed(reply.call_id, Reason.NOT_READY, self.why_not_ready))
        return reply

    def _drop(self, reply: HookReply) -> None:
        self._replies.pop(reply.call_id, None)

    def _send(self, message: ToHost) -> bool:
        if self._socket is None:
            return False
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        # ZeroMQ's descriptor is edge-triggered: sending may have consumed the edge of a frame that has arrived.
        self._read()
        return True

    def _follow_epoch(self) -> None:
        """Connect to the process of the board's epoch if it is new and ready."""
        epoch = self.board["epoch"]
        if epoch == self._epoch or self.board.phase is not Phase.READY:
            return
        self._lose_host()
        self._epoch = epoch
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{self._directory.socket(epoch)}")
        self._readable = gevent.get_hub().loop.io(self._socket.get(zmq.FD), _READ)
        self._readable.start(self._read)

    def _lose_host(self) -> None:
        """Disconnect and fail every open call: the next process knows none of them."""
        if self._socket is not None:
            self._readable.stop()
            self._readable.close()
            self._socket.close()
        self._socket = self._readable = None
        self._epoch = 0
        for reply in self._replies.values():
            reply.take(Failed(reply.call_id, Reason.NOT_READY, "the hook's process ended before it answered"))
        self._replies.clear()

    def _read(self) -> None:
        """Deliver every frame that has arrived; an empty one only asks whether this worker lives."""
        while self._socket is not None:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_from_host(frame) if frame else None
            except ValueError:
                logger.error("the hook's process sent a frame that cannot be decoded")
                continue
            reply = None if message is None else self._replies.get(message.call_id)
            if reply is not None and message is not None:
                reply.take(message)

    def _watch(self) -> None:
        """Fail open calls as soon as the process is gone."""
        while True:
            gevent.sleep(_TICK_S)
            if self._epoch and (self.board["epoch"] != self._epoch or self.board.phase is not Phase.READY):
                self._lose_host()

    def close(self) -> None:
        """Stop watching, fail open calls and close the socket."""
        self._watcher.kill()
        self._lose_host()
        self._context.term()
        self.board.close()
