"""An error as System One's clients expect it: 422 with a list for an invalid value, as FastAPI has it."""

from __future__ import annotations

from flask import Response

from container.api.systemone.answer_types import SystemOneError, SystemOneFailure, SystemOneFault
from container.api.value_path import steps_of
from container.errors import ServiceError
from container.web.responses import json_response

_INVALID = 422
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_response(error: ServiceError) -> Response:
    """The body under the error's own status; for 400 it is 422."""
    if error.status != 400:
        failure = SystemOneFailure(_TYPES.get(error.status, error.code), error.message)
        return json_response(SystemOneError(failure), error.status)
    steps = error.steps or steps_of(f".{error.param or ''}")
    return json_response(SystemOneError([SystemOneFault(["body", *steps], error.message, error.code)]), _INVALID)
