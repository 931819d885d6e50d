"""POST /v1/chat/completions, POST /v1/completions, GET /v1/models."""

from __future__ import annotations

from flask import Blueprint, Response

from container.api.openai import chat_request, completion_request
from container.api.openai.answer_types import (
    ChatChunk,
    ChatCompletion,
    ErrorBody,
    ModelAnswer,
    ModelList,
    TextCompletion,
)
from container.api.openai.chat import answer_chat
from container.api.openai.chat_request import ChatRequest
from container.api.openai.completion_request import CompletionRequest
from container.api.openai.completions import answer_completion
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.errors import NotFound
from container.monitoring.request_record import current_record
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.web import sse
from container.web.responses import json_response
from handler.seam.adapter_list import AdapterEntry

blueprint = Blueprint("openai", __name__)

_ERRORS = (400, 404, 413, 415, 429, 500, 503, 504)
# The body's forms, also for /invocations.
CHAT_FORM = Form(ChatRequest, chat_request.RULE)
COMPLETION_FORM = Form(CompletionRequest, completion_request.RULE)


@blueprint.post("/v1/chat/completions")
@describe(
    Operation(
        tag="OpenAI",
        summary="Chat completions",
        bodies=(CHAT_FORM,),
        answer=ChatCompletion,
        event=ChatChunk,
        last_event=sse.DONE_DATA,
        error=ErrorBody,
        errors=_ERRORS,
        example={"messages": [{"role": "user", "content": "What is deep learning?"}], "max_tokens": 20},
    )
)
def chat_completions() -> Response:
    """OpenAI's chat completions."""
    return answer_chat(read_body(), current_record())


@blueprint.post("/v1/completions")
@describe(
    Operation(
        tag="OpenAI",
        summary="Text completions",
        bodies=(COMPLETION_FORM,),
        answer=TextCompletion,
        event=TextCompletion,
        last_event=sse.DONE_DATA,
        error=ErrorBody,
        errors=_ERRORS,
        example={"prompt": "What is deep learning?", "max_tokens": 20},
    )
)
def completions() -> Response:
    """OpenAI's text completions."""
    return answer_completion(read_body(several_adapters=True), current_record())


@blueprint.get("/v1/models")
@describe(
    Operation(tag="OpenAI", summary="The model and its adapters", answer=ModelList, error=ErrorBody, errors=(503,))
)
def models() -> Response:
    """The model that is served, then its adapters."""
    served = service().model
    adapters = [_describe_adapter(served, entry) for entry in service().adapters.entries.values()]
    return json_response(ModelList(data=[_describe(served), *adapters]))


@blueprint.get("/v1/models/<path:model_id>")
@describe(
    Operation(
        tag="OpenAI", summary="The model or an adapter by id", answer=ModelAnswer, error=ErrorBody, errors=(404, 503)
    )
)
def model(model_id: str) -> Response:
    """The model by its id, or an adapter by its name."""
    served, adapters = service().model, service().adapters.entries
    if model_id == served.card.model_id:
        return json_response(_describe(served))
    if model_id not in adapters:
        raise NotFound(f"the model {model_id[:200]!r} does not exist; this server serves {served.card.model_id!r}")
    return json_response(_describe_adapter(served, adapters[model_id]))


def _describe(served: ServedModel) -> ModelAnswer:
    card = served.card
    return ModelAnswer(id=card.model_id, owned_by=card.model_id, max_model_len=card.max_model_len, root=card.model_id)


def _describe_adapter(served: ServedModel, entry: AdapterEntry) -> ModelAnswer:
    base = served.card.model_id
    return ModelAnswer(
        id=entry.name, owned_by=base, max_model_len=served.card.max_model_len, root=entry.src, parent=base
    )
