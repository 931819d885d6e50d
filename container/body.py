"""A request's body, from bytes to plain JSON values: limits, media type, syntax. Types come later, per dialect."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Request
from sagemaker_inference import content_types

from container.errors import MalformedBody, PayloadTooLarge, UnsupportedMediaType

_READ_BYTES = 65_536


def read_json(request: Request, limit_bytes: int, *, any_media_type: bool = False) -> dict[str, Any]:
    """The JSON object in the body.

    Raises PayloadTooLarge, UnsupportedMediaType or MalformedBody. With `any_media_type` a missing or
    application/octet-stream Content-Type counts as JSON, which SageMaker's asynchronous inference sends.
    """
    _check_media_type(request, any_media_type)
    raw = _read(request, limit_bytes)
    if not raw.strip():
        raise MalformedBody("the request body is empty; a JSON object is expected")
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedBody(f"Failed to parse the request body as JSON: {exc}") from exc
    except RecursionError as exc:
        raise MalformedBody("Failed to parse the request body as JSON: nested too deeply") from exc
    if not isinstance(found, dict):
        raise MalformedBody(f"the request body must be a JSON object. Given: {json_type(found)}")
    return found


def json_type(value: Any) -> str:
    """JSON's name for the type of a decoded value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {str: "string", list: "array", dict: "object"}.get(type(value), "value")


def _check_media_type(request: Request, any_media_type: bool) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported; send the body uncompressed")
    kind = request.mimetype
    if kind == content_types.JSON or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if any_media_type and kind in {"", content_types.OCTET_STREAM, content_types.ANY}:
        return
    raise UnsupportedMediaType("Expected request with `Content-Type: application/json`")


def _read(request: Request, limit_bytes: int) -> bytes:
    """At most the limit and one read of it; a chunked body has no length to look at first."""
    message = f"the request body must be at most {limit_bytes} bytes"
    if request.content_length is not None and request.content_length > limit_bytes:
        raise PayloadTooLarge(f"{message}. Given: {request.content_length}")
    parts: list[bytes] = []
    size = 0
    while part := request.stream.read(_READ_BYTES):
        size += len(part)
        if size > limit_bytes:
            raise PayloadTooLarge(message)
        parts.append(part)
    return b"".join(parts)
