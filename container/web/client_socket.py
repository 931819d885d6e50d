"""A client's connection with patience that ends: for the head, for the body, between requests, and for reading.

gunicorn's gevent worker waits for ever once a connection has sent a byte, so a thousand half-sent requests would stay
until their clients leave. gunicorn's parser and response call `recv` and `sendall` here; everything else is the
socket's own.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from gunicorn import util

# From the first byte of a request to the end of its head, in seconds.
HEAD_S = 10.0
# To the end of the body, in seconds, beside what the slowest welcome client needs for its length.
BODY_S = 10.0
SLOWEST_BYTES_PER_S = 65_536
# Until a client has taken in a piece of the answer, in seconds.
WRITE_S = 10.0
_PIECE_BYTES = 65_536
# How long, and for how many bytes, a refused body is listened to so that its sender sees the answer.
_LINGER_S = 1.0
_LINGER_BYTES = 65_536


class ClientTooSlow(ConnectionResetError):
    """The client has used up its time. A reset to gunicorn, which closes the connection without a word."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.ECONNRESET, what)


_door = BoundedSemaphore(1)


def _out_of_time(what: str) -> ClientTooSlow:
    """What to raise, when it is this client's turn. Clients that came together run out of time together: a thousand
    answers in one piece would keep everybody else waiting for a second, so the event loop turns between any two.
    """
    with _door:
        gevent.sleep(0)
    return ClientTooSlow(what)


class ClientSocket:
    """`sock`, with deadlines. `idle` holds the connections of a worker that wait for a request, longest first."""

    def __init__(self, sock: Any, keepalive_s: float, idle: dict[ClientSocket, None]) -> None:
        self._sock = sock
        self._keepalive_s = keepalive_s
        self._idle = idle
        self._deadline_s = time.monotonic() + HEAD_S
        self._seconds_per_byte = 0.0
        self._in_body = False
        self.num_body_bytes = 0
        idle[self] = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def expect_body(self) -> None:
        """The head is there; its body may follow. What is read from now on counts into `num_body_bytes`."""
        self.num_body_bytes = 0
        self._in_body = True
        self._deadline_s = time.monotonic() + BODY_S
        self._seconds_per_byte = 1 / SLOWEST_BYTES_PER_S

    def expect_request(self) -> None:
        """The last request is answered and read to its end."""
        self._in_body = False
        self._deadline_s = time.monotonic() + self._keepalive_s
        self._seconds_per_byte = 0.0
        self._idle[self] = None

    def recv(self, size: int) -> bytes:
        """As `socket.recv`. Raises ClientTooSlow at the deadline."""
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise _out_of_time("the request was not sent in time")
        self._sock.settimeout(left_s)
        try:
            data: bytes = self._sock.recv(size)
        except TimeoutError as exc:
            raise _out_of_time("the request was not sent in time") from exc
        if self in self._idle:
            del self._idle[self]
            self._deadline_s = time.monotonic() + HEAD_S
        self.num_body_bytes += len(data)
        self._deadline_s += len(data) * self._seconds_per_byte
        return data

    def sendall(self, data: bytes) -> None:
        """As `socket.sendall`. Raises ClientTooSlow if a piece of 64 kB is not taken in time."""
        self._sock.settimeout(WRITE_S)
        view = memoryview(data)
        try:
            for start in range(0, len(view), _PIECE_BYTES):
                self._sock.sendall(view[start : start + _PIECE_BYTES])
        except TimeoutError as exc:
            # A reset: otherwise the kernel would keep what was not read, and the connection, for minutes.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._in_body = False
            raise _out_of_time("the answer was not read in time") from exc

    def evict(self) -> None:
        """End the connection; whoever reads it finds its end."""
        self._idle.pop(self, None)
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; after a body that was not read to its end, slowly enough for the answer to arrive."""
        self._idle.pop(self, None)
        if self._in_body:
            util.close_graceful(self._sock, timeout=_LINGER_S, max_drain=_LINGER_BYTES)
        else:
            self._sock.close()
