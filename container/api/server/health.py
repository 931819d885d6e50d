"""Readiness, answered from the status board: it never waits for the engine or for another request."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response

from container.api.operation import Operation, describe
from container.monitoring.request_record import current_record
from container.serving.hook_answer import answer_ping
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


_OPERATION = Operation(
    tag="Server",
    summary="200 if the model answers",
    error=Unhealthy,
    errors=(503,),
    keyed=False,
)


@blueprint.get("/ping")
@blueprint.post("/ping")
@describe(_OPERATION)
def ping() -> Response:
    """As `health`, unless the user's code answers SageMaker's health check."""
    hook = service().hook
    if hook is None or not service().ready or not hook.overrides_ping:
        return health()
    answer = answer_ping(hook, current_record().id)
    return _unhealthy("the hook did not answer the health check") if answer is None else answer


@blueprint.get("/health")
@blueprint.get("/")
@describe(_OPERATION)
def health() -> Response:
    """200 with an empty body if the model answers, as TGI does; else 503 and a JSON phase."""
    return Response(status=200) if service().ready else _unhealthy(service().detail)


def _unhealthy(detail: str) -> Response:
    board = service().leading_board
    body = Unhealthy(
        error="unhealthy",
        error_type="healthcheck",
        phase=service().phase_name,
        detail=detail,
        progress=board["progress_permille"] / 1000,
    )
    response = json_response(body, 503)
    response.headers["Retry-After"] = "1"
    return response
