"""POST /tokenize, whose path TGI and vLLM share, POST /detokenize and GET /tokenizer_info."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from container.api import tgi
from container.api.adapters import with_adapter
from container.api.openai import chat_request
from container.api.openai.answer_types import ErrorBody
from container.api.openai.chat_prompt import chat_prompt
from container.api.openai.chat_request import parse_chat
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.api.vllm.answer_types import DetokenizedText, TokenizerInfo, TokenList
from container.api.vllm.requests import (
    DetokenizeRequest,
    TokenizeChat,
    TokenizePrompt,
    is_vllms,
    parse_detokenize,
    parse_prompt,
)
from container.api.vllm.tokenizer_info import tokenizer_info
from container.monitoring.request_record import RequestRecord, current_record, timed
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.text.offload import encode, offload
from container.web.body import read_json
from container.web.responses import json_response

NAME = "vllm"
# About as many characters as a token has.
_CHARS_PER_TOKEN = 4

blueprint = Blueprint(NAME, __name__)


# What fails before the body is read is answered in TGI's words: the path was TGI's first.
@tgi.token_blueprint.post("/tokenize")
@describe(
    Operation(
        tag="TGI",
        summary="The tokens of a text, or of a conversation; TGI's or vLLM's body, its shape decides",
        bodies=(Form(tgi.TokenizeBody), Form(TokenizePrompt), Form(TokenizeChat, chat_request.RULE)),
        answer=(list[tgi.SimpleToken], TokenList),
        error=(tgi.ErrorAnswer, ErrorBody),
        errors=(400, 404, 413, 415, 422, 500, 503),
        text_errors=(400, 413, 415, 422),
        example={"inputs": "What is deep learning?"},
    )
)
def tokenize() -> Response:
    """TGI's tokens with their spans for `inputs`; vLLM's ids for `prompt` or `messages`."""
    return answer_tokenize(read_json(request, service().settings.payload_limit), current_record())


@blueprint.post("/detokenize")
@describe(
    Operation(
        tag="vLLM",
        summary="The text of token ids",
        bodies=(Form(DetokenizeRequest),),
        answer=DetokenizedText,
        error=ErrorBody,
        errors=(400, 404, 413, 415, 503),
        example={"tokens": [1, 2, 3]},
    )
)
def detokenize() -> Response:
    """Special tokens are spelt out, as in vLLM."""
    return answer_detokenize(read_body())


@blueprint.get("/tokenizer_info")
@describe(
    Operation(
        tag="vLLM",
        summary="The tokenizer's configuration and chat template",
        answer=TokenizerInfo,
        error=ErrorBody,
        errors=(503,),
    )
)
def info() -> Response:
    """What lm_eval asks for to tokenize by this server. vLLM has it behind a switch."""
    return json_response(tokenizer_info(service().model))


def answer_tokenize(body: dict[str, Any], record: RequestRecord) -> Response:
    """TGI's answer or vLLM's, by the shape of the body; errors likewise. Raises ServiceError."""
    if not is_vllms(body):
        return tgi.answer_tokenize(with_adapter(body))
    record.dialect = NAME
    body = with_adapter(body)
    served, settings = service().model, service().settings
    if body.get("prompt") is not None:
        asked = parse_prompt(body, settings)
        special = asked.add_special_tokens is not False
        with timed("tokenise"):
            token_ids = encode(served.tokenizer, asked.prompt, add_special_tokens=special)
        return _listed(token_ids, served, spelt=asked.return_token_strs)
    chat = parse_chat(body, settings, served.card.vocab_size, TokenizeChat)
    return _listed(chat_prompt(chat, served).token_ids, served, spelt=body.get("return_token_strs"))


def answer_detokenize(body: dict[str, Any]) -> Response:
    """Raises ServiceError."""
    served = service().model
    token_ids = parse_detokenize(body, service().settings, served.card.vocab_size)

    def work() -> Response:
        return json_response(DetokenizedText(served.tokenizer.decode(token_ids, skip_special_tokens=False)))

    return _aside(token_ids, work)


def _listed(token_ids: list[int], served: ServedModel, *, spelt: bool | None) -> Response:
    return _aside(token_ids, partial(_token_list, token_ids, served, spelt=bool(spelt)))


def _token_list(token_ids: list[int], served: ServedModel, *, spelt: bool) -> Response:
    token = served.tokenizer.token
    spellings = [token(token_id) or "" for token_id in token_ids] if spelt else None
    return json_response(TokenList(len(token_ids), served.card.max_model_len, token_ids, spellings))


def _aside(token_ids: list[int], work: Callable[[], Response]) -> Response:
    """`work()`, off the event loop for many tokens."""
    return offload(len(token_ids) * _CHARS_PER_TOKEN, work)
