"""The engine's end of the socket: a ROUTER bound to one `ipc://` path. Knows frames, nothing about scheduling.

One thread uses it, the engine's own. Sends never block: a worker that is gone or reads too slowly is reported to
the caller, which aborts that worker's requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import msgspec
import zmq

from handler.seam.protocol import FromEngine, ToEngine, decode_to_engine, encode

logger = logging.getLogger(__name__)

# Frames that may wait for one worker. A step sends it one frame, so this is minutes of a worker that does not read.
_SEND_HIGH_WATER_MARK = 10_000
_LINGER_MS = 500
# Read between two steps; a flood of frames must not keep the sequences that run waiting.
_MAX_FRAMES_PER_STEP = 1000
# A prompt of a million tokens fits; more is not a request of ours.
_MAX_FRAME_BYTES = 64 * 1024 * 1024


class EngineSocket:
    """Receives `(worker, messages)`, sends lists of messages to a worker."""

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
        self.num_bad_frames = 0

    def receive(self, timeout_s: float) -> Iterator[tuple[bytes, list[ToEngine]]]:
        """What has arrived, waiting at most `timeout_s` for the first frame. Bad frames are dropped."""
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
                self.num_bad_frames += 1
                logger.warning("dropped a frame that is not a list of requests")
                continue
            yield worker, messages

    def send(self, worker: bytes, messages: list[FromEngine]) -> bool:
        """Send one frame; False if the worker is gone or does not read."""
        try:
            self._socket.send_multipart([worker, encode(messages)], zmq.NOBLOCK)
        except zmq.ZMQError as exc:
            if exc.errno in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                return False
            raise
        return True

    def restore(self) -> None:
        """Bind again if somebody has deleted the socket's file, as cleaners of /tmp do: new workers need it.

        ZeroMQ deletes the file of an address that it leaves, so another name is bound and then renamed.
        """
        if not os.path.exists(self._path):
            logger.warning("the engine's socket was deleted; binding it again")
            scratch = f"{self._path}.new"
            self._socket.bind(f"ipc://{scratch}")
            os.replace(scratch, self._path)

    def close(self) -> None:
        """Unbind, giving the last frames a moment to leave."""
        self._socket.close()
        self._context.term()
