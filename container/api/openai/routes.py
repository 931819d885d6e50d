"""POST /v1/chat/completions and GET /v1/models."""

from __future__ import annotations

import secrets
from typing import Any

from flask import Blueprint, Response, current_app, g, request

from container import sse
from container.api.openai.chat_request import ChatRequest, parse_chat_request, sampling_params
from container.api.openai.chat_response import ChatAnswer
from container.body import read_json
from container.errors import NotFound, ServiceError, TemplateFailed
from container.generation import Prompt
from container.responses import json_response
from container.served_model import ServedModel
from container.service import service
from container.text.chat_template import TemplateError

blueprint = Blueprint("openai", __name__)


@blueprint.post("/v1/chat/completions")
def chat_completions() -> Response:
    """OpenAI's chat completions."""
    g.dialect = "openai"
    return answer_chat(read_json(request, service().settings.payload_limit))


@blueprint.get("/v1/models")
def models() -> Response:
    """The one model that is served."""
    g.dialect = "openai"
    return json_response({"object": "list", "data": [_describe(service().model)]})


@blueprint.get("/v1/models/<path:model_id>")
def model(model_id: str) -> Response:
    """The model by its id."""
    g.dialect = "openai"
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


def answer_chat(body: dict[str, Any]) -> Response:
    """Parse, render, submit; then stream or collect. Raises ServiceError."""
    g.dialect = "openai"
    served = service().admit()
    chat = parse_chat_request(body, service().settings.max_stop_sequences)
    token_ids = _prompt_token_ids(chat, served)
    max_tokens = served.check_length(len(token_ids), chat.limit)
    prompt = Prompt(
        token_ids=token_ids,
        sampling=sampling_params(chat, max_tokens),
        stop=chat.stop_strings,
        timeout_s=service().timeout_s(bool(chat.stream)),
    )
    answer = ChatAnswer(chat, served, service().generate(prompt, request), f"chatcmpl-{secrets.token_hex(12)}")
    if not chat.stream:
        return json_response(answer.whole())
    log = current_app.logger
    return sse.stream(answer.frames(), ServiceError.openai_body, lambda: log.exception("a chat stream failed"))


def _prompt_token_ids(chat: ChatRequest, served: ServedModel) -> list[int]:
    if served.chat_template is None:
        raise TemplateFailed("template not found: this model has no chat template; use /generate or /v1/completions")
    continues = bool(chat.continue_final_message)
    try:
        rendered = served.chat_template.render(
            chat.messages,
            add_generation_prompt=not continues and chat.add_generation_prompt is not False,
            continue_final_message=continues,
            template_kwargs=chat.chat_template_kwargs,
        )
        return rendered.encode(served.tokenizer)
    except TemplateError as exc:
        raise TemplateFailed(str(exc)) from exc
