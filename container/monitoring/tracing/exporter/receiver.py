"""The exporter process's end of the socket, on which all web workers send."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import zmq

from container.monitoring.tracing.span import Span, decode

logger = logging.getLogger("container.traces")

_POLL_MS = 200
# After SIGTERM: what has been sent arrives within this time.
_LAST_POLL_MS = 100


class Receiver:
    """Binds the socket at `path`; one that an earlier process left there is replaced."""

    def __init__(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"ipc://{path}")
        self._stopped = False

    def stop(self) -> None:
        """End `spans` once all that has been sent is read. May be called by a signal handler."""
        self._stopped = True

    def spans(self) -> Iterator[Span]:
        """Every span that the workers send."""
        while True:
            stopped = self._stopped
            if self._socket.poll(_LAST_POLL_MS if stopped else _POLL_MS):
                try:
                    yield decode(self._socket.recv())
                except ValueError:
                    logger.error("a web worker sent a frame that is no span")
            elif stopped:
                return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()
