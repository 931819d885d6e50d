"""POST /invocations: the only module that knows several dialects, because its contract is to tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Blueprint, Response, request

from container.api import anthropic, decisions, openai, responses, systemone, tgi, vllm
from container.api.adapters import choose_hooks_adapter, with_adapter
from container.api.custom_attributes import ATTRIBUTES, route_of, traceparent_of
from container.api.dialect import Dialect
from container.api.operation import Form, Operation, describe
from container.api.sagemaker.session_headers import in_session
from container.api.sagemaker.session_table import SessionTable
from container.errors import InvalidRequest, WrongShape
from container.monitoring.request_record import RequestRecord, current_record
from container.serving.hook_answer import answer_request
from container.serving.service import service
from container.web import sse
from container.web.body import read_json

blueprint = Blueprint("sagemaker", __name__)


@dataclass(frozen=True, slots=True)
class _Target:
    """What /invocations stands for: a dialect and its way to answer a body."""

    dialect: Dialect
    answer: Callable[[dict[str, Any], RequestRecord], Response]


_CHAT = _Target(openai.dialect, openai.answer_chat)
_COMPLETION = _Target(openai.dialect, openai.answer_completion)
_RESPONSE = _Target(responses.dialect, responses.answer_response)
_DECISION = _Target(decisions.dialect, decisions.answer_decision)
_SYSTEM_ONE = _Target(systemone.dialect, systemone.answer_systemone)
_MESSAGES = _Target(anthropic.dialect, anthropic.answer_messages)
_COMPAT_GENERATE = _Target(tgi.dialect, tgi.answer_compat_generate)
# The routes that `route=` may name: inference only, neither health nor documents.
_ROUTES: dict[str, _Target] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETION,
    "/v1/responses": _RESPONSE,
    "/v1/decisions": _DECISION,
    "/v1/systemone": _SYSTEM_ONE,
    "/v1/messages": _MESSAGES,
    "/v1/messages/count_tokens": _Target(anthropic.dialect, lambda body, _record: anthropic.answer_count(body)),
    "/generate": _Target(tgi.dialect, partial(tgi.answer_generate, streaming=False)),
    "/generate_stream": _Target(tgi.dialect, partial(tgi.answer_generate, streaming=True)),
    "/tokenize": _Target(tgi.dialect, vllm.answer_tokenize),
    "/chat_tokenize": _Target(tgi.dialect, lambda body, _record: tgi.answer_chat_tokenize(body)),
    "/detokenize": _Target(vllm.dialect, lambda body, _record: vllm.answer_detokenize(body)),
}


@blueprint.post("/invocations")
@describe(
    Operation(
        tag="SageMaker",
        summary="TGI's, OpenAI's or Anthropic's body; its shape decides",
        bodies=(
            Form(tgi.CompatGenerateBody, tgi.document_rules.COMPAT),
            openai.CHAT_FORM,
            openai.COMPLETION_FORM,
            responses.FORM,
            decisions.FORM,
            systemone.FORM,
            anthropic.FORM,
        ),
        answer=(
            list[tgi.GenerateAnswer],
            openai.ChatCompletion,
            openai.TextCompletion,
            responses.ResponseAnswer,
            decisions.DecisionObject,
            systemone.SystemOneAnswers,
            anthropic.MessageAnswer,
        ),
        event=(tgi.StreamEvent, openai.ChatChunk, openai.TextCompletion, *responses.EVENTS, *anthropic.EVENTS),
        last_event=sse.DONE_DATA,
        error=(tgi.ErrorAnswer, openai.ErrorBody, systemone.SystemOneError, anthropic.MessagesError),
        errors=(400, 404, 413, 415, 422, 424, 429, 500, 503, 504, 529),
        text_errors=(400, 413, 415, 422),
        example={"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}},
    )
)
def invocations() -> Response:
    """The body alone decides about streaming, because SageMaker's own predictor sends no useful Accept header.

    A user's code, if it runs, gets every request instead.
    """
    settings, record = service().settings, current_record()
    record.adopt(traceparent_of(request.headers.get(ATTRIBUTES, "")))
    hook = service().answering_hook
    if hook is not None:
        return answer_request(hook, request, record, settings, choose_hooks_adapter)
    body = read_json(request, settings.invocations_payload_limit, any_media_type=True)
    sessions = SessionTable(service().sessions_dir, settings.sessions_expiration_s)
    named = _target_named(request.headers.get(ATTRIBUTES, ""))

    def answer(body: dict[str, Any]) -> Response:
        target = named or _target_by_shape(body)
        record.dialect = target.dialect.name
        return target.answer(with_adapter(body, several=target is _COMPLETION), record)

    return in_session(body, sessions, answer, settings.standard_sessions)


@blueprint.after_request
def echo_attributes(response: Response) -> Response:
    """SageMaker returns the attributes to the caller only if the container does."""
    attributes = request.headers.get(ATTRIBUTES)
    if attributes is not None:
        response.headers[ATTRIBUTES] = attributes
    return response


def _target_named(attributes: str) -> _Target | None:
    route = route_of(attributes)
    if route is None:
        return None
    if route not in _ROUTES:
        allowed = ", ".join(_ROUTES)
        raise InvalidRequest(f"`route` in {ATTRIBUTES} must be one of {allowed}. Given: {route[:80]}")
    return _ROUTES[route]


def _target_by_shape(body: dict[str, Any]) -> _Target:
    """TGI's order (router/src/sagemaker.rs): a string `inputs`, then `messages`, then `prompt`. Last, `input`.

    `anthropic.is_anthropics` tells whose `messages` they are. `questions` are a decision's: OpenAI's in an array,
    System One's in an object.
    """
    if isinstance(body.get("inputs"), str):
        return _COMPAT_GENERATE
    # A field that is null counts only where no other is there.
    for fields in ({name for name, value in body.items() if value is not None}, body.keys()):
        if "messages" in fields:
            return _MESSAGES if anthropic.is_anthropics(body) else _CHAT
        if "prompt" in fields:
            return _COMPLETION
        if "questions" in fields:
            return _SYSTEM_ONE if isinstance(body["questions"], dict) else _DECISION
        if "inputs" in fields:
            return _COMPAT_GENERATE
        if "input" in fields:
            return _RESPONSE
    raise WrongShape("data did not match any variant of untagged enum SagemakerRequest")
