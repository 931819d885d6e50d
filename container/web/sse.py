"""Server-sent events: one JSON value a frame, one frame a write, ending in a blank line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from flask import Response

from container.errors import InternalError, ServiceError
from container.generation.generation import ClientDisconnected
from container.monitoring.request_record import current_record

logger = logging.getLogger(__name__)

DONE_DATA = "[DONE]"
DONE = f"data: {DONE_DATA}\n\n".encode()
KEEPALIVE = b":\n\n"

_encoder = msgspec.json.Encoder()


def frame(value: Any) -> bytes:
    """One event. JSON never holds a line break, so one data line is enough."""
    return b"data: " + _encoder.encode(value) + b"\n\n"


def stream(frames: Iterator[bytes], error_body: Callable[[ServiceError], Any]) -> Response:
    """A streamed response of `frames`.

    The first frame is awaited before the status line is sent, so a request that is refused has its own status.
    An error after that becomes one event of `error_body` and the stream ends without [DONE].
    """
    first = next(frames, b"")
    record = current_record()

    def body() -> Iterator[bytes]:
        try:
            yield first
            yield from frames
        except ClientDisconnected:
            return
        except ServiceError as exc:
            yield frame(error_body(exc))
        except Exception:  # the status line is out; the client learns it from an event
            fields = {} if record is None else {"request_id": record.id}
            logger.exception("a stream failed", extra={"fields": fields})
            if record is not None:
                record.fail(InternalError.tgi_type)
            yield frame(error_body(InternalError()))
        finally:
            _close(frames)

    response = Response(body(), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    # A generator that never starts runs no `finally`; the server closes the response in any case.
    response.call_on_close(lambda: _close(frames))
    return response


def _close(frames: Iterable[bytes]) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        close()
