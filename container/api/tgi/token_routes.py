"""POST /chat_tokenize, and the answers of /tokenize, whose route is where vLLM's bodies are known too."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Blueprint, Response

from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.api.tgi.answer_types import ChatTokenizeAnswer, ErrorAnswer, SimpleToken
from container.api.tgi.chat_prompt import ChatBody, render, spans
from container.api.tgi.error_response import READ_ERRORS, SHAPE_ERRORS
from container.api.tgi.request.body_shape import shaped
from container.serving.service import service
from container.text.offload import offload
from container.web.responses import json_response

blueprint = Blueprint("tgi_tokens", __name__)


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """A generate request; only its text is read."""

    inputs: str
    parameters: dict[str, Any] = {}


@blueprint.post("/chat_tokenize")
@describe(
    Operation(
        tag="TGI",
        summary="The tokens of a conversation",
        bodies=(Form(ChatBody),),
        answer=ChatTokenizeAnswer,
        error=ErrorAnswer,
        errors=READ_ERRORS,
        text_errors=SHAPE_ERRORS,
        example={"messages": [{"role": "user", "content": "What is deep learning?"}]},
    )
)
def chat_tokenize() -> Response:
    """The conversation, rendered by the model's chat template, and its tokens."""
    return answer_chat_tokenize(read_body())


def answer_tokenize(body: dict[str, Any]) -> Response:
    """Parameters are ignored, even `truncate`, as in TGI. Raises ServiceError."""
    parsed = shaped(body, TokenizeBody)
    tokenizer = service().model.tokenizer

    def work() -> Response:
        found = tokenizer.spans(parsed.inputs, add_special_tokens=True)
        return json_response([SimpleToken(span.id, span.text, span.start, span.stop) for span in found])

    return offload(len(parsed.inputs), work)


def answer_chat_tokenize(body: dict[str, Any]) -> Response:
    """The template writes the special tokens; the tokenizer adds none. Raises ServiceError."""
    chat = shaped(body, ChatBody)
    served = service().model
    rendered = render(chat, served)

    def work() -> Response:
        return json_response(ChatTokenizeAnswer(spans(rendered, served.tokenizer), rendered.text))

    return offload(len(rendered.marked), work)
