"""An error as TGI's clients expect it (tgi-http-api.md 2.1, 2.2)."""

from __future__ import annotations

from flask import Response

from container.errors import ServiceError
from container.web.responses import json_response


def error_response(error: ServiceError) -> Response:
    """text/plain for what TGI's web framework refuses before TGI sees it, else JSON."""
    text = error.tgi_text()
    if text is not None:
        return Response(text, status=error.tgi_status, mimetype="text/plain")
    return json_response(error.tgi_body(), error.tgi_status)
