"""Readiness, answered from the status board: it never waits for the engine or for another request."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response

from container.api.operation import Operation, describe
from container.serving.service import service
from container.web.responses import json_response

blueprint = Blueprint("health", __name__)


class Unhealthy(msgspec.Struct, frozen=True):
    """The server's phase: `detail` in words, `progress` from 0 to 1."""

    error: str
    error_type: str
    phase: str
    detail: str
    progress: float


@blueprint.get("/ping")
@blueprint.post("/ping")
@blueprint.get("/health")
@blueprint.get("/")
@describe(
    Operation(
        tag="Server",
        summary="200 if the model answers",
        error=Unhealthy,
        errors=(503,),
        keyed=False,
    )
)
def health() -> Response:
    """200 with an empty body if the model answers, as TGI does; else 503 and a JSON phase."""
    if service().ready:
        return Response(status=200)
    board = service().engines.leading_board
    body = Unhealthy(
        error="unhealthy",
        error_type="healthcheck",
        phase=service().phase_name,
        detail=board.detail,
        progress=board["progress_permille"] / 1000,
    )
    response = json_response(body, 503)
    response.headers["Retry-After"] = "1"
    return response
