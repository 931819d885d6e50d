"""POST /v1/systemone."""

from __future__ import annotations

from flask import Blueprint, Response

from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.api.systemone.answer import answer_systemone
from container.api.systemone.answer_types import SystemOneAnswers, SystemOneError
from container.api.systemone.request import SystemOneRequest
from container.monitoring.request_record import current_record

blueprint = Blueprint("systemone", __name__)

# The body's form, also for /invocations.
FORM = Form(SystemOneRequest)
_EXAMPLE = {
    "state": {"subject": "Duplicate charge", "message": "I was charged twice."},
    "questions": {
        "billing": {"type": "noul", "instructions": "Is this about billing?"},
        "tone": {"type": "choice", "criteria": {"calm": None, "angry": "An upset or hostile message"}},
        "urgency": {"type": "score", "instructions": "How urgent is it?", "criteria": ["Can wait", "Today"]},
    },
}


@blueprint.post("/v1/systemone")
@describe(
    Operation(
        tag="System One",
        summary="Questions about a state, answered by probabilities",
        bodies=(FORM,),
        answer=SystemOneAnswers,
        error=SystemOneError,
        errors=(404, 413, 415, 422, 429, 500, 503, 504),
        example=_EXAMPLE,
    )
)
def systemone() -> Response:
    """System One, as TypeSafe's API has it."""
    return answer_systemone(read_body(), current_record())
