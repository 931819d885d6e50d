"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from flask import Blueprint, Response

from container.api.anthropic.answer import answer_count, answer_messages
from container.api.anthropic.answer_types import EVENTS, MessageAnswer, MessagesError, TokenCount
from container.api.anthropic.request import RULE, CountRequest, MessagesRequest
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.monitoring.request_record import current_record

blueprint = Blueprint("anthropic", __name__)

_ERRORS = (400, 404, 413, 415, 500, 503, 504, 529)
# The body's form, also for /invocations.
FORM = Form(MessagesRequest, RULE)
_EXAMPLE = {"model": "claude", "messages": [{"role": "user", "content": "What is deep learning?"}]}


@blueprint.post("/v1/messages")
@describe(
    Operation(
        tag="Anthropic",
        summary="Messages",
        bodies=(FORM,),
        answer=MessageAnswer,
        event=EVENTS,
        error=MessagesError,
        errors=_ERRORS,
        example={**_EXAMPLE, "max_tokens": 20},
    )
)
def messages() -> Response:
    """Anthropic's Messages."""
    return answer_messages(read_body(), current_record())


@blueprint.post("/v1/messages/count_tokens")
@describe(
    Operation(
        tag="Anthropic",
        summary="The length of a prompt",
        bodies=(Form(CountRequest, RULE),),
        answer=TokenCount,
        error=MessagesError,
        errors=(400, 404, 413, 415, 500, 503),
        example=_EXAMPLE,
    )
)
def count_tokens() -> Response:
    """The tokens of a prompt, before it is sent."""
    return answer_count(read_body())
