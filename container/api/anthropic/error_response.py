"""An error as Anthropic's clients expect it."""

from __future__ import annotations

from flask import Response

from container.api.anthropic.answer_types import MessagesError, MessagesFault
from container.errors import ContextLengthExceeded, OutOfMemory, Overloaded, ServiceError
from container.monitoring.request_record import RequestRecord, find_record
from container.web.responses import json_response

_OVERLOADED = 529
_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    _OVERLOADED: "overloaded_error",
}


def error_response(error: ServiceError) -> Response:
    """The body under Anthropic's status: 529 for a server that is full, which its clients try again."""
    return json_response(error_body(error), _status(error))


def error_body(error: ServiceError, record: RequestRecord | None = None) -> MessagesError:
    """The JSON body, which is also the last event of a stream that fails: `record` is known there alone."""
    message = error.message
    if isinstance(error, ContextLengthExceeded) and error.limit is not None:
        # Claude Code looks for these words and makes the conversation shorter.
        message = f"prompt is too long: {error.num_tokens} tokens > {error.limit} maximum"
    record = record or find_record()
    kind = _TYPES.get(_status(error), "invalid_request_error")
    return MessagesError(error=MessagesFault(kind, message), request_id=None if record is None else record.shown_id)


def _status(error: ServiceError) -> int:
    return _OVERLOADED if isinstance(error, Overloaded | OutOfMemory) else error.status
