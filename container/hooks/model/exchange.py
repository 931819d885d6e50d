"""One request to this server and its answer, on a connection that can be shut while another thread reads from it."""

from __future__ import annotations

import socket
from contextlib import suppress
from contextvars import ContextVar

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from container.hooks.model.errors import CallEnded, ModelError
from container.hooks.model.open_calls import open_calls

_UNREACHABLE = 503


class Exchange:
    """Ends with the request whose hook made it. Whoever made it calls `close` before the connection is free again."""

    def __init__(self) -> None:
        """Raises CallEnded if that request has ended."""
        self._sock: socket.socket | None = None
        self._request = open_calls.get()
        if self._request is not None:
            self._request.add(self)

    def use(self, sock: socket.socket) -> None:
        """The answer will come from `sock`. Raises CallEnded."""
        self._sock = sock
        if self._has_ended:
            raise CallEnded

    def end(self) -> None:
        """Shut the connection: its reader fails, and the server sees that nobody waits."""
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """The answer has been read, or there will be none."""
        if self._request is not None:
            self._request.remove(self)

    def lost(self, error: Exception) -> ModelError:
        """Why there is no answer."""
        if self._has_ended:
            return CallEnded()
        return ModelError(_UNREACHABLE, f"the model cannot be reached: {type(error).__name__}", "not_ready")

    @property
    def _has_ended(self) -> bool:
        return self._request is not None and self._request.ended_s is not None


# The exchange that this thread sends.
current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


class _Connection(HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        exchange, sock = current_exchange.get(), self.sock
        if exchange is not None and sock is not None:
            exchange.use(sock)
        return super().getresponse()


class SharedPool(HTTPConnectionPool):
    """Connections that tell their exchange which socket it has."""

    ConnectionCls = _Connection
