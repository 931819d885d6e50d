"""An error as OpenAI's clients expect it."""

from __future__ import annotations

from flask import Response

from container.api.openai.answer_types import ErrorBody, ErrorFields
from container.errors import ServiceError
from container.web.responses import json_response

# OpenAI's error types, by status.
_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "internal_error",
    503: "service_unavailable",
    504: "timeout",
}


def error_response(error: ServiceError) -> Response:
    """The body under the error's own status."""
    return json_response(error_body(error), error.status)


def error_body(error: ServiceError) -> ErrorBody:
    """The JSON body, which is also the last event of a stream that fails."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    return ErrorBody(ErrorFields(error.message, kind, error.param, error.code))
