"""vLLM's POST /v1/load_lora_adapter and /v1/unload_lora_adapter, behind its own switch."""

from __future__ import annotations

import os
from typing import TypeVar

import msgspec
from flask import Blueprint, Response, request

from container.api.adapter_checks import check_name, check_source
from container.api.ignored_fields import note_ignored
from container.api.openai.answer_types import ErrorBody
from container.api.operation import Form, Operation, describe
from container.api.validation import convert
from container.errors import AdapterFailed, AdapterInvalid, AdapterUnknown, InvalidRequest, NotFound
from container.serving.service import service
from container.web.body import read_json

blueprint = Blueprint("vllm_adapters", __name__)

T = TypeVar("T", bound=msgspec.Struct)

_SWITCH = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"


class LoadLora(msgspec.Struct, frozen=True, kw_only=True):
    """`lora_path` is a directory of the container; with `load_inplace` the name may be one that is loaded."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadLora(msgspec.Struct, frozen=True, kw_only=True):
    """`lora_int_id` is vLLM's own number of an adapter and ignored there, too."""

    lora_name: str
    lora_int_id: int | None = None


@blueprint.post("/v1/load_lora_adapter")
@describe(
    Operation(
        tag="vLLM",
        summary="Load an adapter",
        bodies=(Form(LoadLora),),
        answer=str,
        answer_media_type="text/plain",
        error=ErrorBody,
        errors=(400, 404, 413, 415, 429, 503, 507),
        example={"lora_name": "my-adapter", "lora_path": "/adapters/my-adapter"},
    )
)
def load_lora_adapter() -> Response:
    """Answers once every engine has it."""
    wanted = _parse(LoadLora)
    try:
        check_name("lora_name", wanted.lora_name)
        check_source("lora_path", wanted.lora_path)
        service().adapter_changes.register(wanted.lora_name, wanted.lora_path, pin=False, replace=wanted.load_inplace)
    except AdapterInvalid as exc:
        raise AdapterInvalid(exc.message, param="lora_name") from exc
    except AdapterFailed as exc:
        raise _failed(exc, wanted.lora_path) from exc
    return _done(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.")


@blueprint.post("/v1/unload_lora_adapter")
@describe(
    Operation(
        tag="vLLM",
        summary="Forget an adapter",
        bodies=(Form(UnloadLora),),
        answer=str,
        answer_media_type="text/plain",
        error=ErrorBody,
        errors=(400, 404, 413, 415, 429, 503),
        example={"lora_name": "my-adapter"},
    )
)
def unload_lora_adapter() -> Response:
    """Requests that an engine has taken still finish."""
    wanted = _parse(UnloadLora)
    try:
        service().adapter_changes.unregister(wanted.lora_name)
    except AdapterUnknown as exc:
        raise AdapterUnknown(exc.message, param="lora_name") from exc
    return _done(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")


def _failed(exc: AdapterFailed, path: str) -> InvalidRequest:
    """vLLM has no 424: it answers 404 for a directory that is not there, else 400."""
    if service().settings.max_adapters and not os.path.isdir(path):  # unlike Path's, False for what no path can be
        return AdapterUnknown(exc.message, param="lora_path")
    return AdapterInvalid(exc.message, param="lora_path")


def _parse(kind: type[T]) -> T:
    """Fields that `kind` does not have are left out, as in vLLM.

    Raises InvalidRequest, and NotFound where the switch is off, as if there were no such route.
    """
    settings = service().settings
    if not settings.adapter_updates:
        raise NotFound(f"{request.path} is turned off; {_SWITCH}=true turns it on, and POST /adapters is always there")
    body = read_json(request, settings.payload_limit)
    known = {name: value for name, value in body.items() if name in kind.__struct_fields__}
    for name in body.keys() - known:
        note_ignored(name, "this server knows no such option of an adapter")
    return convert(known, kind)


def _done(text: str) -> Response:
    return Response(text, mimetype="text/plain")
