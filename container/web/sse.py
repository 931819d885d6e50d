"""Server-sent events: one JSON value per frame, one frame per write, a blank line at its end."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from flask import Response

from container.errors import InternalError, ServiceError
from container.generation.generation import ClientDisconnected
from container.monitoring.request_record import RequestRecord

logger = logging.getLogger(__name__)

DONE_DATA = "[DONE]"
DONE = f"data: {DONE_DATA}\n\n".encode()
KEEPALIVE = b":\n\n"

_encoder = msgspec.json.Encoder()
# Stands for the text of a `TextFrames` while its frame is made. No client can know it.
_PLACE = secrets.token_hex(16)


def frame(value: Any) -> bytes:
    """One event. Encoded JSON has no line breaks, so one data line is enough."""
    return b"data: " + _encoder.encode(value) + b"\n\n"


class TextFrames:
    """Frames that differ in one text only. All else is encoded once."""

    def __init__(self, event: Callable[[str], Any]) -> None:
        """`event` makes the value of the event with a text."""
        self._before, self._after = frame(event(_PLACE)).split(_encoder.encode(_PLACE))

    def frame(self, text: str) -> bytes:
        """The event with `text`, as `frame` would encode it."""
        return self._before + _encoder.encode(text) + self._after


def named(value: Any) -> bytes:
    """One event whose name is the `type` of its value: Responses' and Anthropic's form."""
    return f"event: {value.type}\n".encode() + frame(value)


def stream(
    frames: Iterator[bytes],
    error_body: Callable[[ServiceError], Any],
    record: RequestRecord,
    frame: Callable[[Any], bytes] = frame,
) -> Response:
    """A streamed response of `frames`.

    The status line waits for the first frame, so a refused request gets its own status. A later error becomes one event
    of `error_body`, which `frame` writes, and the stream ends without [DONE].
    """
    first = next(frames, b"")

    def body() -> Iterator[bytes]:
        try:
            yield first
            yield from frames
        except ClientDisconnected:
            return
        except ServiceError as exc:
            yield frame(error_body(exc))
        except Exception:  # the status line is out, so the client gets an event
            logger.exception("a stream failed", extra={"fields": {"request_id": record.id}})
            record.fail(InternalError.outcome)
            yield frame(error_body(InternalError()))
        finally:
            _close(frames)

    response = Response(body(), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    # A generator that never starts runs no `finally`, but the server always closes the response.
    response.call_on_close(lambda: _close(frames))
    return response


def _close(frames: Iterable[bytes]) -> None:
    close = getattr(frames, "close", None)
    if close is not None:
        close()
