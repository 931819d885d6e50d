"""gunicorn's gevent worker with limits: slow clients are cut off, idle connections make room for new ones."""

from __future__ import annotations

import contextlib
from typing import Any

from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.workers.ggevent import GeventWorker

from container.web.client_socket import ClientSocket

# Connections kept free for new requests.
_RESERVE = 64
# An unread body is drained up to here, so that the connection can be reused; a body that turned out too long, a little
# further.
_DRAIN_BYTES = 262_144
_DRAIN_BYTES_MORE = 65_536
_READ_BYTES = 8192


class Worker(GeventWorker):  # type: ignore[misc]
    """One web worker process; a greenlet for each connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: dict[ClientSocket, None] = {}
        self._num_open = 0

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection to its end."""
        self._num_open += 1
        if self._num_open > self.worker_connections - _RESERVE:
            self._make_room()
        try:
            super(GeventWorker, self).handle(listener, ClientSocket(client, self.cfg.keepalive, self._idle), addr)
        finally:
            self._num_open -= 1

    def _make_room(self) -> None:
        """End the connection that has been idle longest. Otherwise idle clients would lock out health checks."""
        longest = next(iter(self._idle), None)
        if longest is not None:
            with contextlib.suppress(OSError):
                longest.evict()

    def handle_request(self, listener_name: Any, req: Any, sock: ClientSocket, addr: Any) -> None:
        """Answer one request, then drain a body that the application did not read, up to a limit."""
        sock.expect_body()
        super().handle_request(listener_name, req, sock, addr)
        if not _read_to_end(req.body, max(_DRAIN_BYTES_MORE, _DRAIN_BYTES - sock.num_body_bytes)):
            raise StopIteration
        sock.expect_request()


def _read_to_end(body: Any, limit_bytes: int) -> bool:
    """Whether the body ends within `limit_bytes` more. A broken body never ends."""
    if body.failed:
        return False
    try:
        while limit_bytes > 0:
            data = body.read(_READ_BYTES)
            if not data:
                return True
            limit_bytes -= len(data)
    except (ParseException, NoMoreData):
        # The request has been answered; the client would take an error page for its next answer.
        return False
    return False
