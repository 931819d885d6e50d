"""A client's socket with deadlines: for the head, the body, the next request, and for reading the answer.

Without them gunicorn's gevent worker waits for ever once a connection has sent a byte, so half-sent requests would keep
their connections until the clients leave. gunicorn's parser and response call `recv` and `sendall` here; all else is
the socket's own.
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
# To the end of the body, in seconds, plus the time that the slowest accepted client needs for its length.
BODY_S = 10.0
SLOWEST_BYTES_PER_S = 65_536
# To read one piece of the answer, in seconds.
WRITE_S = 10.0
_PIECE_BYTES = 65_536
# A refused body is read for this long and up to this size, so that its sender sees the answer.
_LINGER_S = 1.0
_LINGER_BYTES = 65_536


class ClientTooSlow(ConnectionResetError):
    """The client missed its deadline. gunicorn treats it as a reset and closes the connection silently."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.ECONNRESET, what)


_turn = BoundedSemaphore(1)


def _out_of_time(what: str) -> ClientTooSlow:
    """The exception to raise, one client per turn of the event loop.

    Clients that came together time out together; a thousand at once would block the loop for a second.
    """
    with _turn:
        gevent.sleep(0)
    return ClientTooSlow(what)


class ClientSocket:
    """`sock` with deadlines. `idle` holds the worker's connections that wait for a request, longest first."""

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
        """The head has been read, the body may follow. Bytes read from now on count in `num_body_bytes`."""
        self.num_body_bytes = 0
        self._in_body = True
        self._deadline_s = time.monotonic() + BODY_S
        self._seconds_per_byte = 1 / SLOWEST_BYTES_PER_S

    def expect_request(self) -> None:
        """The last request has been answered and read to its end."""
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
        num_sent = self._send_now(data)
        if num_sent == len(data):
            return
        self._sock.settimeout(WRITE_S)
        view = memoryview(data)
        try:
            for start in range(num_sent, len(view), _PIECE_BYTES):
                self._sock.sendall(view[start : start + _PIECE_BYTES])
        except TimeoutError as exc:
            # Reset: otherwise the kernel would keep the unread bytes and the connection for minutes.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._in_body = False
            raise _out_of_time("the answer was not read in time") from exc

    def _send_now(self, data: bytes) -> int:
        """How many bytes the kernel takes at once, as a rule all. gevent's `sendall` would ask for a size first."""
        try:
            sent: int = self._sock.send(data, 0, 0.0)  # gevent's third argument: 0 seconds of waiting
        except BlockingIOError:
            return 0
        return sent

    def evict(self) -> None:
        """End the connection; its reader sees end of file."""
        self._idle.pop(self, None)
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; after a body that was not read to its end, first let the answer arrive."""
        self._idle.pop(self, None)
        if self._in_body:
            util.close_graceful(self._sock, timeout=_LINGER_S, max_drain=_LINGER_BYTES)
        else:
            self._sock.close()
