"""A web worker's end of the socket to the exporter process. Sending never waits: what finds no room is counted."""

from __future__ import annotations

import atexit
from pathlib import Path

import zmq

from container.monitoring.tracing.counts import NO_EXPORTER, count_dropped
from container.monitoring.tracing.span import Span, encode

# Spans kept while the exporter process starts, restarts or is busy.
_MAX_WAITING = 1000
# A worker that ends gives the exporter process this long to take the rest.
_LINGER_MS = 300


class SpanSender:
    """One for each web worker, made after the fork. `reads_parent`: a caller's `traceparent` is the parent."""

    def __init__(self, path: Path, *, reads_parent: bool) -> None:
        """`path` is the exporter's socket; it need not exist yet."""
        self.reads_parent = reads_parent
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _MAX_WAITING)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.connect(f"ipc://{path}")
        atexit.register(self.close)

    def send(self, span: Span) -> None:
        """Hand over a span, or count that it was lost."""
        try:
            self._socket.send(encode(span), zmq.NOBLOCK)
        except zmq.Again:
            count_dropped(NO_EXPORTER)

    def close(self) -> None:
        """Send what waits, for at most 0.3 s. Safe to call twice."""
        self._socket.close()
        self._context.term()
