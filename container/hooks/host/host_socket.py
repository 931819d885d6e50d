"""The hook process's end of the socket: a ROUTER of the main thread, and an outbox that any thread may fill."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Iterator

import zmq

from container.hooks.call import FromHost, ToHost, decode_to_host, encode

logger = logging.getLogger(__name__)

_LINGER_MS = 500
# The parts of a call are bounded by their window, so this is never reached by a worker that lives.
_SEND_HIGH_WATER_MARK = 100_000
_MAX_FRAMES = 1000
_WAKE = (1).to_bytes(8, "little")


class HostSocket:
    """Receives `(worker, message)` pairs and sends messages to a worker. `lost` holds workers that have gone."""

    def __init__(self, path: str) -> None:
        """Bind `ipc://path`. Raises zmq.ZMQError."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.SNDHWM, _SEND_HIGH_WATER_MARK)
        self._socket.bind(f"ipc://{path}")
        self._outbox: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake, zmq.POLLIN)
        self.lost: set[bytes] = set()

    def send(self, worker: bytes, message: FromHost | None) -> None:
        """Hand a message to the main thread; callable from any thread. None only asks whether the worker is there.

        Encodes here, so that what no frame can hold fails its own call alone: TypeError, ValueError or OverflowError.
        """
        self._outbox.put((worker, b"" if message is None else encode(message)))
        self.wake()

    def wake(self) -> None:
        """End the wait of `receive`; callable from any thread and from a signal's handler."""
        os.write(self._wake, _WAKE)

    def receive(self, timeout_s: float) -> Iterator[tuple[bytes, ToHost]]:
        """Send what waits; yield what has arrived, waiting up to `timeout_s` for either. Drops bad frames."""
        ready = dict(self._poller.poll(int(timeout_s * 1000)))
        if self._wake in ready:
            os.read(self._wake, 8)
        self._flush()
        for _ in range(_MAX_FRAMES):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                worker, frame = parts
                message = decode_to_host(frame)
            except ValueError:
                logger.warning("dropped a frame that is no call")
                continue
            yield worker, message

    def _flush(self) -> None:
        while True:
            try:
                worker, frame = self._outbox.get_nowait()
            except queue.Empty:
                return
            try:
                self._socket.send_multipart([worker, frame], zmq.NOBLOCK)
            except zmq.ZMQError as exc:
                if exc.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                    raise
                self.lost.add(worker)

    def close(self) -> None:
        """Send what waits, then unbind; the last frames may still leave for `_LINGER_MS`."""
        self._flush()
        self._socket.close()
        self._context.term()
