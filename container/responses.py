"""Small helpers every dialect answers with."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response


def json_response(body: Any, status: int = 200) -> Response:
    """A whole JSON answer, with its Content-Length."""
    return Response(msgspec.json.encode(body), status=status, mimetype="application/json")
