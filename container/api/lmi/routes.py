"""POST, GET and DELETE /adapters[...], with the statuses of LMI: 424 for what cannot be loaded, 507 for no room."""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, Response, request
from msgspec import UNSET
from werkzeug.routing import BaseConverter

from container.api.lmi.answer_types import AdapterAnswer, AdapterError, AdapterPage, AdapterStatus
from container.api.lmi.requests import (
    MAX_LIMIT,
    NAME_SCHEMA,
    SOURCE_SCHEMA,
    RegisterBody,
    UpdateBody,
    parse_page,
    parse_register,
    parse_update,
)
from container.api.operation import Form, Operation, describe
from container.errors import AdapterInvalid, AdapterUnknown
from container.serving.service import service
from container.web.body import read_json
from container.web.responses import json_response
from handler.seam.adapter_list import AdapterEntry

blueprint = Blueprint("lmi", __name__)
blueprint.record_once(lambda state: state.app.url_map.converters.update(adapter=_AdapterName))
logger = logging.getLogger(__name__)

# The name that people know an adapter by; SageMaker's own is long.
ALIAS = "X-Amzn-SageMaker-Adapter-Alias"
_BODY_ERRORS = (400, 413, 415, 503)
# A path with two slashes names no adapter: it is not the path with one, to which werkzeug would redirect.
_AS_IT_IS: dict[str, Any] = {"merge_slashes": False}
_ALIASED = {ALIAS: {"type": "string"}}
_FLAG = {"type": "boolean"}
_PIN: dict[str, Any] = {"preload": _FLAG, "pin": _FLAG}


class _AdapterName(BaseConverter):
    """A name in a path: it may have slashes, but what ends in /update is the route of that name."""

    part_isolating = False
    regex = "[^/].*?(?<!/update)"


@blueprint.post("/adapters", **_AS_IT_IS)
@describe(
    Operation(
        tag="Adapters",
        summary="Load an adapter; the parameters may also be in the query",
        bodies=(Form(RegisterBody),),
        needs_body=False,
        query={"name": NAME_SCHEMA, "src": SOURCE_SCHEMA} | _PIN,
        headers=_ALIASED,
        answer=AdapterStatus,
        error=AdapterError,
        errors=(*_BODY_ERRORS, 424, 429, 507),
        example={"name": "my-adapter", "src": "/opt/ml/adapters/my-adapter"},
    )
)
def register() -> Response:
    """Answers once every engine has it."""
    wanted = parse_register(request.args, _body())
    service().adapter_changes.register(wanted.name, wanted.src, pin=wanted.pin, shown=_shown(wanted.name))
    logger.info("adapter %s registered", wanted.name)
    return json_response(AdapterStatus(f"Adapter {_shown(wanted.name)} registered"))


@blueprint.get("/adapters", **_AS_IT_IS)
@describe(
    Operation(
        tag="Adapters",
        summary="The adapters that are loaded",
        query={
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
            "next_page_token": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        },
        answer=AdapterPage,
        error=AdapterError,
        errors=(400,),
    )
)
def adapters() -> Response:
    """In the order of registration, page by page."""
    limit, first = parse_page(request.args)
    every = list(service().adapters.entries.values())
    shown = [_answer(entry) for entry in every[first : first + limit]]
    following = str(first + limit) if first + limit < len(every) else UNSET
    return json_response(AdapterPage(shown, following))


@blueprint.get("/adapters/<adapter:name>", **_AS_IT_IS)
@describe(
    Operation(
        tag="Adapters",
        summary="An adapter",
        headers=_ALIASED,
        answer=AdapterAnswer,
        error=AdapterError,
        errors=(404,),
    )
)
def adapter(name: str) -> Response:
    """One adapter by its name."""
    return json_response(_answer(_entry(name)))


@blueprint.post("/adapters/<adapter:name>/update", **_AS_IT_IS)
@describe(
    Operation(
        tag="Adapters",
        summary="Pin an adapter to the device, or no longer; the parameters may also be in the query",
        bodies=(Form(UpdateBody),),
        needs_body=False,
        query={"src": {"type": "string"}} | _PIN,
        headers=_ALIASED,
        answer=AdapterStatus,
        error=AdapterError,
        errors=(*_BODY_ERRORS, 404, 424, 429, 507),
        example={"pin": True},
    )
)
def update(name: str) -> Response:
    """Only `pin` can change: other weights are another adapter."""
    wanted = parse_update(request.args, _body())
    entry = _entry(name)
    if wanted.src is not None and wanted.src != entry.src:
        raise AdapterInvalid("`src` cannot change; delete the adapter and register it again", param="src")
    if wanted.pin is not None:
        service().adapter_changes.pin(name, pin=wanted.pin, shown=_shown(name))
    return json_response(AdapterStatus(f"Adapter {_shown(name)} updated"))


@blueprint.delete("/adapters/<adapter:name>", **_AS_IT_IS)
@describe(
    Operation(
        tag="Adapters",
        summary="Forget an adapter",
        headers=_ALIASED,
        answer=AdapterStatus,
        error=AdapterError,
        errors=(404, 429, 503),
    )
)
def unregister(name: str) -> Response:
    """Requests that an engine has taken still finish."""
    service().adapter_changes.unregister(name, shown=_shown(name))
    logger.info("adapter %s unregistered", name)
    return json_response(AdapterStatus(f"Adapter {_shown(name)} unregistered"))


def _body() -> dict[str, Any]:
    """The fields of the body; none without one."""
    if not (request.content_length or "Transfer-Encoding" in request.headers):
        return {}
    return read_json(request, service().settings.payload_limit, any_media_type=True)


def _entry(name: str) -> AdapterEntry:
    entry = service().adapters.entries.get(name)
    if entry is None:
        raise AdapterUnknown(f"the adapter {_shown(name)!r} was not found")
    return entry


def _answer(entry: AdapterEntry) -> AdapterAnswer:
    return AdapterAnswer(entry.name, entry.src, entry.pin)


def _shown(name: str) -> str:
    return (request.headers.get(ALIAS, "").strip() or name)[:256]
