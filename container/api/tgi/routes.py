"""POST /, /predict, /generate, /generate_stream; GET /info."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from container.api.adapters import choose_hooks_adapter
from container.api.answer_headers import add_compute_time, add_stream_headers, add_whole_headers
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.api.tgi import document_rules
from container.api.tgi.answer_types import CodeInfo, CustomCode, ErrorAnswer, GenerateAnswer, Info, StreamEvent
from container.api.tgi.error_response import GENERATE_ERRORS, SHAPE_ERRORS, error_body
from container.api.tgi.generating import start, whole_answer
from container.api.tgi.request.generate_request import (
    CompatGenerateBody,
    GenerateBody,
    parse_compat_generate,
    parse_generate,
)
from container.api.tgi.request.parameter_checks import check_before_admission
from container.monitoring.request_record import RequestRecord, current_record
from container.serving.hook_answer import answer_request
from container.serving.service import service
from container.version import TGI_VERSION, VERSION
from container.web import sse
from container.web.responses import json_response

blueprint = Blueprint("tgi", __name__)

_EXAMPLE: dict[str, Any] = {"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}}


@blueprint.post("/generate")
@describe(
    Operation(
        tag="TGI",
        summary="Generate a whole answer",
        bodies=(Form(GenerateBody, document_rules.WHOLE),),
        answer=GenerateAnswer,
        error=ErrorAnswer,
        errors=GENERATE_ERRORS,
        text_errors=SHAPE_ERRORS,
        example=_EXAMPLE,
    )
)
def generate() -> Response:
    """A whole answer; a `stream` key is ignored, as in TGI."""
    return answer_generate(read_body(), current_record(), streaming=False)


@blueprint.post("/generate_stream")
@describe(
    Operation(
        tag="TGI",
        summary="Generate token by token",
        bodies=(Form(GenerateBody, document_rules.STREAM),),
        event=StreamEvent,
        error=ErrorAnswer,
        errors=GENERATE_ERRORS,
        text_errors=SHAPE_ERRORS,
        example=_EXAMPLE,
    )
)
def generate_stream() -> Response:
    """Always a stream."""
    return answer_generate(read_body(), current_record(), streaming=True)


@blueprint.post("/")
@blueprint.post("/predict")
@describe(
    Operation(
        tag="TGI",
        summary="Generate; `stream` decides how",
        bodies=(Form(CompatGenerateBody, document_rules.COMPAT),),
        answer=list[GenerateAnswer],
        event=StreamEvent,
        error=ErrorAnswer,
        errors=GENERATE_ERRORS,
        text_errors=SHAPE_ERRORS,
        example=_EXAMPLE,
    )
)
def compat_generate() -> Response:
    """TGI's compatibility route, also under the name that Inference Endpoints give custom handlers.

    They are the routes of such a handler, if it runs.
    """
    hook = service().answering_hook
    if hook is not None and hook.takes_predict:
        return answer_request(hook, request, current_record(), service().settings, choose_hooks_adapter)
    return answer_compat_generate(read_body(), current_record())


@blueprint.get("/info")
@describe(
    Operation(
        tag="TGI",
        summary="The model and the limits",
        answer=(Info, CodeInfo),
        error=ErrorAnswer,
        errors=(503,),
    )
)
def info() -> Response:
    """The model and the limits, under TGI's names; what runs, where the user's code has a model of its own."""
    return json_response(_info() if service().has_engine else _code_info())


def _info() -> Info:
    served, settings = service().model, service().settings
    card = served.card
    return Info(
        model_id=card.model_id,
        model_sha=card.revision,
        model_dtype=card.dtype,
        model_device_type=card.device.split(":")[0],
        model_pipeline_tag="text-generation",
        max_concurrent_requests=service().max_in_flight,
        max_best_of=settings.max_best_of,
        max_stop_sequences=settings.max_stop_sequences,
        max_input_tokens=served.max_input_tokens,
        max_total_tokens=card.max_model_len,
        max_batch_total_tokens=card.kv_capacity_tokens,
        validation_workers=settings.web_workers,
        max_client_batch_size=settings.max_client_batch_size,
        router="text-generation-router",
        version=TGI_VERSION,
        server_version=VERSION,
        sha=None,
        docker_label=None,
        quantize=card.quantize,
        engine_threads=service().engines.leading_board["engine_threads"],
        kv_cache_dtype=card.kv_cache_dtype,
        adapters=list(service().adapters.entries),
        max_adapters=settings.max_adapters,
        speculate=card.num_draft_tokens,
        custom_code=_custom_code(),
        custom_code_ignored=card.custom_code,
    )


def _code_info() -> CodeInfo:
    return CodeInfo(
        model_id=service().settings.served_model_name or service().settings.model,
        model_pipeline_tag=None,
        router="text-generation-router",
        version=TGI_VERSION,
        server_version=VERSION,
        custom_code=_custom_code(),
    )


def _custom_code() -> CustomCode | None:
    hook = service().hook
    card = None if hook is None else hook.card
    return None if card is None else CustomCode(card.convention, card.files)


def answer_compat_generate(body: dict[str, Any], record: RequestRecord) -> Response:
    """The answer of POST / and of /invocations. Raises ServiceError.

    An absent `return_full_text` means true here (`compat_generate` in `router/src/server.rs`).
    """
    parsed = parse_compat_generate(body)
    return _answer(parsed, record, as_list=True, full_text=True, streaming=parsed.stream)


def answer_generate(body: dict[str, Any], record: RequestRecord, *, streaming: bool) -> Response:
    """The answer of /generate or /generate_stream. Raises ServiceError."""
    return _answer(parse_generate(body), record, as_list=False, full_text=False, streaming=streaming)


def _answer(
    body: GenerateBody | CompatGenerateBody, record: RequestRecord, *, as_list: bool, full_text: bool, streaming: bool
) -> Response:
    parameters = body.parameters
    check_before_admission(parameters, service().settings, streaming=streaming)
    served = service().model
    service().admit(parameters.num_sequences)
    wanted = parameters.return_full_text
    prefix = body.inputs if (full_text if wanted is None else wanted) else ""
    generating = start(body.inputs, parameters, served, record, streaming=streaming, prefix=prefix)
    if streaming:
        response = sse.stream(generating.frames(), error_body, record)
        add_stream_headers(response, service().settings, served, len(body.inputs))
        return response
    best, losers = generating.best()
    whole = whole_answer(best, losers, parameters)
    response = json_response([whole] if as_list else whole)
    add_stream_headers(response, service().settings, served, len(body.inputs))
    add_whole_headers(response, record, [best.generation], [best.generation])
    add_compute_time(response, record)
    return response
