"""Whether a request's client is still connected."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from flask import Request
from gevent import monkey

# gevent's poll would yield to other greenlets; this one returns at once.
_poll = monkey.get_original("select", "poll")
_PEER_CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def connection_check(request: Request) -> Callable[[], bool]:
    """A function that says whether the client is still connected; always True where the server hides the socket."""
    sock: socket.socket | None = request.environ.get("gunicorn.socket")
    if sock is None:
        return lambda: True
    poller = _poll()
    poller.register(sock.fileno(), select.POLLRDHUP)

    def connected() -> bool:
        return not any(events & _PEER_CLOSED for _, events in poller.poll(0))

    return connected
