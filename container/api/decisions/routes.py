"""POST /v1/decisions."""

from __future__ import annotations

from flask import Blueprint, Response

from container.api.decisions.answer import answer_decision
from container.api.decisions.answer_types import DecisionObject
from container.api.decisions.request import DecisionRequest
from container.api.openai.answer_types import ErrorBody
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.monitoring.request_record import current_record

blueprint = Blueprint("decisions", __name__)

# The body's form, also for /invocations.
FORM = Form(DecisionRequest)
_EXAMPLE = {
    "input": "I was charged twice for the same order.",
    "questions": [
        {"type": "predicate", "name": "refund", "instructions": "The customer wants money back."},
        {"type": "choice", "instructions": "Who helps?", "choices": [{"value": "billing"}, {"value": "support"}]},
        {"type": "score", "instructions": "How urgent is it?", "levels": [{"label": "low"}, {"label": "high"}]},
    ],
}


@blueprint.post("/v1/decisions")
@describe(
    Operation(
        tag="OpenAI",
        summary="Decisions: questions about a text, answered by probabilities",
        bodies=(FORM,),
        answer=DecisionObject,
        error=ErrorBody,
        errors=(400, 404, 413, 415, 429, 500, 503, 504),
        example=_EXAMPLE,
    )
)
def decisions() -> Response:
    """OpenAI's Decisions."""
    return answer_decision(read_body(), current_record())
