"""The engine's end of the socket: a ROUTER bound to one `ipc://` path. Knows frames, nothing about scheduling.

Only the engine's thread uses it. Sends never block: `send` reports a worker that is gone or reads too slowly, and the
caller aborts that worker's requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import msgspec
import zmq

from handler.seam.protocol import EngineMessage, ToEngine, decode_to_engine, encode

logger = logging.getLogger(__name__)

# Frames queued per worker. A step sends one, so a worker may stop reading for minutes.
_SEND_HIGH_WATER_MARK = 10_000
_LINGER_MS = 500
# Frames read between two steps, so that a flood of frames does not stall running sequences.
_MAX_FRAMES_PER_STEP = 1000
# Fits a prompt of a million tokens.
_MAX_FRAME_BYTES = 64 * 1024 * 1024


class EngineSocket:
    """Receives `(worker, messages)` pairs and sends lists of messages to a worker."""

    def __init__(self, path: str) -> None:
        """Bind `ipc://path`. Raises zmq.ZMQError if the path cannot be used."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.SNDHWM, _SEND_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_FRAME_BYTES)
        self._path = path
        self._socket.bind(f"ipc://{path}")

    def receive(self, timeout_s: float) -> Iterator[tuple[bytes, list[ToEngine]]]:
        """Yield the messages that have arrived, waiting up to `timeout_s` for the first frame. Drops bad frames."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return
        for _ in range(_MAX_FRAMES_PER_STEP):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                worker, frame = parts
                messages = decode_to_engine(frame)
            except (ValueError, msgspec.MsgspecError):
                logger.warning("dropped a frame that is not a list of requests")
                continue
            yield worker, messages

    def send(self, worker: bytes, messages: list[EngineMessage]) -> bool:
        """Send one frame; False if the worker is gone or does not read."""
        try:
            self._socket.send_multipart([worker, encode(messages)], zmq.NOBLOCK)
        except zmq.ZMQError as exc:
            if exc.errno in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                return False
            raise
        return True

    def restore(self) -> None:
        """Bind again if the socket file was deleted, as cleaners of /tmp do: new workers connect through it.

        ZeroMQ deletes the file of an address when it unbinds, so this binds another name and renames it.
        """
        if not os.path.exists(self._path):
            logger.warning("the engine's socket was deleted; binding it again")
            scratch = f"{self._path}.new"
            self._socket.bind(f"ipc://{scratch}")
            os.replace(scratch, self._path)

    def close(self) -> None:
        """Unbind; the last frames may still leave for `_LINGER_MS`."""
        self._socket.close()
        self._context.term()
