"""vLLM's POST /v1/load_lora_adapter and /v1/unload_lora_adapter, behind its own switch."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, request

from container.api.adapter_checks import check_name, check_source
from container.api.openai.answer_types import ErrorBody
from container.api.operation import Form, Operation, describe
from container.api.validation import convert
from container.errors import AdapterFailed, AdapterInvalid, NotFound
from container.serving.service import service
from container.web.body import read_json

blueprint = Blueprint("vllm_adapters", __name__)

_SWITCH = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"


class LoadLora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lora_path` is a directory of the container; with `load_inplace` the name may be one that is loaded."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadLora(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    wanted = convert(_body(), LoadLora)
    try:
        check_name("lora_name", wanted.lora_name)
        check_source("lora_path", wanted.lora_path)
        service().adapter_changes.register(wanted.lora_name, wanted.lora_path, pin=False, replace=wanted.load_inplace)
    except AdapterFailed as exc:
        raise AdapterInvalid(exc.message, param="lora_path") from exc
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
    wanted = convert(_body(), UnloadLora)
    service().adapter_changes.unregister(wanted.lora_name, shown=wanted.lora_name)
    return _done(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")


def _body() -> dict[str, object]:
    """Raises NotFound where the switch is off, as if there were no such route."""
    settings = service().settings
    if not settings.adapter_updates:
        raise NotFound(f"{request.path} is turned off; {_SWITCH}=true turns it on, and POST /adapters is always there")
    return read_json(request, settings.payload_limit)


def _done(text: str) -> Response:
    return Response(text, mimetype="text/plain")
