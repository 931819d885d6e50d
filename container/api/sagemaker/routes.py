"""POST /invocations. The only module that knows several dialects, because its contract is to tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from container.api import openai, tgi
from container.api.operation import Form, Operation, describe
from container.api.sagemaker.custom_attributes import ATTRIBUTES, route_of
from container.api.sagemaker.session_headers import in_session
from container.api.sagemaker.session_table import SessionTable
from container.errors import InvalidRequest, WrongShape
from container.serving.service import service
from container.web import sse
from container.web.body import read_json

blueprint = Blueprint("sagemaker", __name__)

Answer = Callable[[dict[str, Any]], Response]

# What `route=` may name. Everything else under this server, health and documents among it, is no inference.
_ROUTES: dict[str, Answer] = {
    "/v1/chat/completions": openai.answer_chat,
    "/v1/completions": openai.answer_completion,
    "/generate": lambda body: tgi.answer_generate(body, streaming=False),
    "/generate_stream": lambda body: tgi.answer_generate(body, streaming=True),
    "/tokenize": tgi.answer_tokenize,
    "/chat_tokenize": tgi.answer_chat_tokenize,
}


@blueprint.post("/invocations")
@describe(
    Operation(
        tag="SageMaker",
        summary="TGI's or OpenAI's body, told apart by its shape",
        bodies=(Form(tgi.CompatGenerateBody, tgi.document_rules.COMPAT), openai.CHAT_FORM, openai.COMPLETION_FORM),
        answer=(list[tgi.GenerateAnswer], openai.ChatCompletion, openai.TextCompletion),
        event=(tgi.StreamEvent, openai.ChatChunk, openai.TextCompletion),
        last_event=sse.DONE_DATA,
        error=(tgi.ErrorAnswer, openai.ErrorBody),
        errors=(400, 413, 415, 422, 424, 429, 500, 503, 504),
        text_errors=(400, 413, 415, 422),
        example={"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}},
    )
)
def invocations() -> Response:
    """Streaming is decided by the body alone, because SageMaker's own predictor sends no telling Accept header."""
    settings = service().settings
    body = read_json(request, settings.invocations_payload_limit, any_media_type=True)
    sessions = SessionTable(service().sessions_dir, settings.sessions_expiration_s)
    return in_session(body, sessions, _answer_for(request.headers.get(ATTRIBUTES, "")))


@blueprint.after_request
def echo_attributes(response: Response) -> Response:
    """SageMaker hands the attributes back to the caller only if the container does."""
    attributes = request.headers.get(ATTRIBUTES)
    if attributes is not None:
        response.headers[ATTRIBUTES] = attributes
    return response


def _answer_for(attributes: str) -> Answer:
    route = route_of(attributes)
    if route is None:
        return _answer_by_shape
    if route not in _ROUTES:
        allowed = ", ".join(_ROUTES)
        raise InvalidRequest(f"`route` in {ATTRIBUTES} must be one of {allowed}. Given: {route[:80]}")
    return _ROUTES[route]


def _answer_by_shape(body: dict[str, Any]) -> Response:
    """TGI's order (router/src/sagemaker.rs): a string `inputs`, then `messages`, then `prompt`."""
    if isinstance(body.get("inputs"), str):
        return tgi.answer_compat_generate(body)
    if "messages" in body:
        return openai.answer_chat(body)
    if "prompt" in body:
        return openai.answer_completion(body)
    if "inputs" in body:
        return tgi.answer_compat_generate(body)
    raise WrongShape("data did not match any variant of untagged enum SagemakerRequest")
