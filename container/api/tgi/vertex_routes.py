"""POST /vertex: Google's instances-and-predictions envelope (router/src/vertex.rs)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from flask import Blueprint, Response
from msgspec import Meta

from container.api.adapters import adapter_of_instance, without_names
from container.api.answer_headers import add_time_limit
from container.api.operation import Form, Operation, describe
from container.api.request_body import read_body
from container.api.tgi.answer_types import ErrorAnswer, VertexAnswer
from container.api.tgi.chat_prompt import ChatBody, render
from container.api.tgi.error_response import GENERATE_ERRORS, SHAPE_ERRORS, EmptyInstances
from container.api.tgi.generating import Generating, collect, start, start_tokens
from container.api.tgi.request.body_shape import shaped
from container.api.tgi.request.generate_request import Inputs
from container.api.tgi.request.parameter_checks import check_lengths, check_parameters
from container.api.tgi.request.parameters import U32, GenerateParameters, USize
from container.api.tgi.request.unknown_names import note_unknown
from container.monitoring.request_record import RequestRecord, current_record, timed
from container.serving.served_model import ServedModel
from container.serving.service import service
from container.text.offload import encode_prompt
from container.web.responses import json_response

blueprint = Blueprint("tgi_vertex", __name__)

_INSTANCE = {"anyOf": [{"$ref": "#/components/schemas/VertexInputs"}, {"$ref": "#/components/schemas/ChatBody"}]}


class VertexParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters that /vertex reads; all others are ignored."""

    max_new_tokens: Annotated[U32 | None, Meta(extra_json_schema={"minimum": 1})] = None
    seed: Annotated[USize | None, Meta(extra_json_schema={"maximum": 2**64 - 1})] = None
    adapter_id: str | None = None


class VertexInputs(msgspec.Struct, frozen=True, kw_only=True):
    """A text to continue."""

    inputs: Inputs
    parameters: VertexParameters = VertexParameters()


class VertexBody(msgspec.Struct, frozen=True, kw_only=True):
    """Each instance is `inputs` with `parameters`, or a chat request."""

    instances: Annotated[
        list[Annotated[dict[str, Any], Meta(extra_json_schema=_INSTANCE)]],
        Meta(extra_json_schema={"minItems": 1}),
    ]


@blueprint.post("/vertex")
@describe(
    Operation(
        tag="TGI",
        summary="Generate for several instances",
        bodies=(Form(VertexBody),),
        parts=(VertexInputs, ChatBody),
        answer=VertexAnswer,
        error=ErrorAnswer,
        errors=GENERATE_ERRORS,
        text_errors=SHAPE_ERRORS,
        example={"instances": [{"inputs": "What is deep learning?", "parameters": {"max_new_tokens": 20}}]},
    )
)
def vertex() -> Response:
    """One text for each instance, in order."""
    body = shaped(read_body(), VertexBody)
    instances = [_instance(without_names(instance), i) for i, instance in enumerate(body.instances)]
    adapters = [adapter_of_instance(instance) for instance in body.instances]
    if not instances:
        raise EmptyInstances
    served = service().model
    service().admit(len(instances))
    record = current_record()
    folds = [
        fold
        for instance, adapter in zip(instances, adapters, strict=True)
        for fold in _start(instance, adapter, served, record).folds
    ]
    collect(folds)
    response = json_response(VertexAnswer([fold.text for fold in folds]))
    add_time_limit(response, [fold.generation for fold in folds])
    return response


def _instance(instance: dict[str, Any], number: int) -> VertexInputs | ChatBody:
    at: tuple[str, int] = ("instances", number)
    if "inputs" not in instance:
        chat = shaped(instance, ChatBody, at)
        note_unknown(instance, ChatBody, "instances[].")
        return chat
    inputs = shaped(instance, VertexInputs, at)
    note_unknown(instance, VertexInputs, "instances[].")
    note_unknown(instance.get("parameters"), VertexParameters, "instances[].parameters.")
    return inputs


def _start(instance: VertexInputs | ChatBody, adapter: str, served: ServedModel, record: RequestRecord) -> Generating:
    if isinstance(instance, VertexInputs):
        wanted = instance.parameters
        parameters = _parameters(wanted.max_new_tokens, wanted.seed)
        return start(instance.inputs, parameters, served, record, streaming=False, prefix="", adapter=adapter)
    parameters = _parameters(instance.max_tokens, instance.seed)
    check_parameters(parameters, service().settings)
    rendered = render(instance, served)
    with timed("tokenise"):
        token_ids = encode_prompt(served.tokenizer, rendered)
    max_tokens = check_lengths(len(token_ids), parameters, served)
    return start_tokens(token_ids, parameters, served, record, max_tokens, streaming=False, prefix="", adapter=adapter)


def _parameters(max_new_tokens: int | None, seed: int | None) -> GenerateParameters:
    """TGI always samples on this route."""
    return GenerateParameters(do_sample=True, max_new_tokens=max_new_tokens, seed=seed)
