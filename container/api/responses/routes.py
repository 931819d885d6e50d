"""POST /v1/responses; GET and DELETE of a response, of which none is stored; what OpenAI has beside them."""

from __future__ import annotations

from flask import Blueprint, Response, request

from container.api.absent_routes import absent_route
from container.api.openai.answer_types import ErrorBody
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.api.responses.answer import answer_response
from container.api.responses.answer_types import EVENTS, ResponseAnswer
from container.api.responses.request import RULE, ResponseRequest
from container.errors import NotFound
from container.monitoring.request_record import current_record

blueprint = Blueprint("responses", __name__)

_ERRORS = (400, 404, 413, 415, 429, 500, 503, 504)
# The body's form, also for /invocations.
FORM = Form(ResponseRequest, RULE)


@blueprint.post("/v1/responses")
@describe(
    Operation(
        tag="OpenAI",
        summary="Responses, stateless",
        bodies=(FORM,),
        answer=ResponseAnswer,
        event=EVENTS,
        error=ErrorBody,
        errors=_ERRORS,
        example={"input": "What is deep learning?", "max_output_tokens": 20},
    )
)
def responses() -> Response:
    """OpenAI's Responses."""
    return answer_response(read_body(), current_record())


@blueprint.route("/v1/responses/<response_id>", methods=["GET", "DELETE"])
@describe(Operation(tag="OpenAI", summary="No response is stored", error=ErrorBody, errors=(404,)))
def response(response_id: str) -> Response:
    """404: whoever wants to go on sends the conversation."""
    raise NotFound(f"there is no response {response_id[:80]!r}: this server stores none; send the conversation itself")


@blueprint.route("/v1/responses/input_tokens", methods=["GET", "DELETE", "POST"])
@blueprint.route("/v1/responses/compact", methods=["GET", "DELETE", "POST"])
@describe(Operation(tag="OpenAI", summary="Not done here", error=ErrorBody, errors=(404,), listed=False))
def absent() -> Response:
    """404: their paths are those of a response too, so POST alone would be a 405."""
    raise NotFound(absent_route(request.path) or "")
