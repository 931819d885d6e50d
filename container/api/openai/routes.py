"""POST /v1/chat/completions, POST /v1/completions, GET /v1/models."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, request

from container.api.openai.chat import answer_chat
from container.api.openai.completions import answer_completion
from container.body import read_json
from container.errors import NotFound
from container.responses import json_response
from container.served_model import ServedModel
from container.service import service

blueprint = Blueprint("openai", __name__)


@blueprint.before_request
def _speak_openai() -> None:
    g.dialect = "openai"


@blueprint.post("/v1/chat/completions")
def chat_completions() -> Response:
    """OpenAI's chat completions."""
    return answer_chat(read_json(request, service().settings.payload_limit))


@blueprint.post("/v1/completions")
def completions() -> Response:
    """OpenAI's text completions."""
    return answer_completion(read_json(request, service().settings.payload_limit))


@blueprint.get("/v1/models")
def models() -> Response:
    """The one model that is served."""
    return json_response({"object": "list", "data": [_describe(service().model)]})


@blueprint.get("/v1/models/<path:model_id>")
def model(model_id: str) -> Response:
    """The model by its id."""
    served = service().model
    if model_id != served.card.model_id:
        raise NotFound(f"the model {model_id[:200]!r} does not exist; this server serves {served.card.model_id!r}")
    return json_response(_describe(served))


def _describe(served: ServedModel) -> dict[str, Any]:
    card = served.card
    return {
        "id": card.model_id,
        "object": "model",
        "created": 0,
        "owned_by": card.model_id,
        "max_model_len": card.max_model_len,
    }
