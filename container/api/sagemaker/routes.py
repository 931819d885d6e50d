"""POST /invocations. The only module that knows several dialects, because its contract is to tell them apart."""

from __future__ import annotations

from flask import Blueprint, Response, request

from container.api import openai, tgi
from container.body import read_json
from container.errors import InvalidRequest
from container.service import service

blueprint = Blueprint("sagemaker", __name__)

_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


@blueprint.post("/invocations")
def invocations() -> Response:
    """TGI's order: `inputs` is a TGI request with a list answer, `messages` is chat.

    Streaming is decided by the body alone, because SageMaker's own predictor sends no telling Accept header.
    """
    body = read_json(request, service().settings.invocations_payload_limit, any_media_type=True)
    if "inputs" in body:
        response = tgi.answer_generate(body, as_list=True)
    elif "messages" in body:
        response = openai.answer_chat(body)
    else:
        raise InvalidRequest("the body must have one of `inputs`, `messages`", param="inputs")
    attributes = request.headers.get(_ATTRIBUTES)
    if attributes is not None:
        response.headers[_ATTRIBUTES] = attributes
    return response
