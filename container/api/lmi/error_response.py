"""An error as DJL Serving writes it."""

from __future__ import annotations

from flask import Response

from container.api.lmi.answer_types import AdapterError
from container.errors import ServiceError
from container.web.responses import json_response


def error_response(error: ServiceError) -> Response:
    """The body under the error's own status."""
    return json_response(AdapterError(error.status, error.code, error.message), error.status)
