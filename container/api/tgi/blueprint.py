"""The blueprint TGI's routes are registered on, and how they read a body."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g, request

from container.serving.service import service
from container.web.body import read_json

blueprint = Blueprint("tgi", __name__)

# Statuses of every route with a body; these come as text/plain, 422 also as JSON (tgi-http-api.md 2.1, 2.2).
SHAPE_ERRORS = (400, 413, 415, 422)
READ_ERRORS = (*SHAPE_ERRORS, 503)
GENERATE_ERRORS = (*SHAPE_ERRORS, 424, 429, 500, 503, 504)


def read_body() -> dict[str, Any]:
    """The JSON object that was sent. Raises ServiceError, which is shown in TGI's words."""
    g.dialect = "tgi"
    return read_json(request, service().settings.payload_limit)
