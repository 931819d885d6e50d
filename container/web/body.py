"""A request's body, from bytes to plain JSON values: limits, media type, syntax. Types come later, per dialect."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec
from flask import Request, g
from gunicorn.http.errors import NoMoreData, ParseException
from sagemaker_inference import content_types
from werkzeug.exceptions import ClientDisconnected

from container.errors import MalformedBody, PayloadTooLarge, RequestTimeout, UnsupportedMediaType, WrongShape
from container.monitoring.request_record import timed
from container.web.client_socket import ClientTooSlow

_READ_BYTES = 65_536
# S3 gives the last one to an object stored without a media type.
_UNSPECIFIC = frozenset({"", content_types.ANY, content_types.OCTET_STREAM, "binary/octet-stream"})
# Below this, every whole float stands for exactly one integer.
_EXACT = 2**53
# msgspec's words for an end that comes too early, also after half a surrogate pair shortly before the end.
_TRUNCATED = "Input data was truncated"
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?=[^\\]|\\[^u])")
_SYNTAX = "Failed to parse the request body as JSON"
_CUT = "the request body is not as long as its headers or chunk sizes say"


def read_json(request: Request, limit_bytes: int, *, any_media_type: bool = False) -> dict[str, Any]:
    """The JSON object in the body.

    `any_media_type` also accepts a missing or generic Content-Type: SageMaker's asynchronous inference forwards that of
    the object in S3. The last of several equal keys wins, as in Python's `json`. The bytes stay in `g.raw_body`, for
    errors that quote lines and columns.

    Raises PayloadTooLarge, UnsupportedMediaType, RequestTimeout, MalformedBody or WrongShape.
    """
    _check_media_type(request, any_media_type)
    with timed("read"):
        raw = g.raw_body = _read(request, limit_bytes)
    if not raw.strip():
        raise MalformedBody(f"{_SYNTAX}: the body is empty: EOF while parsing a value at line 1 column 0")
    try:
        found = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedBody(f"{_SYNTAX}: {_with_line(str(exc), raw)}") from exc
    except RecursionError as exc:
        raise MalformedBody(f"{_SYNTAX}: recursion limit exceeded: the body is nested too deeply") from exc
    if not isinstance(found, dict):
        raise WrongShape(f"the request body must be a JSON object. Given: {json_type(found)}")
    return found


def read_bytes(request: Request, limit_bytes: int) -> bytes:
    """The body as it came, of any media type.

    Raises PayloadTooLarge, UnsupportedMediaType for one that is compressed, RequestTimeout or MalformedBody.
    """
    _check_encoding(request)
    with timed("read"):
        return _read(request, limit_bytes)


def _with_line(reason: str, raw: bytes) -> str:
    """msgspec's message with a line and a column instead of "(byte N)"."""
    found = re.search(r" \(byte (\d+)\)$", reason)
    half = _HALF_PAIR.search(raw) if reason == _TRUNCATED else None
    if half is not None:
        before, reason = raw[: half.end()], "JSON is malformed: unexpected end of escaped utf-16 surrogate pair"
    elif found is not None:
        before, reason = raw[: int(found[1])], reason[: found.start()]
    elif reason == _TRUNCATED:
        before, reason = raw, "EOF while parsing a value"
    else:
        return reason
    column = len(before) - (before.rfind(b"\n") + 1)
    line = before.count(b"\n") + 1
    return f"{reason} at line {line} column {column}"


def _number(text: str) -> int | float:
    """The value of a number with a decimal point; to JSON Schema 5.0 is an integer."""
    value = float(text)
    if not math.isfinite(value):
        raise msgspec.DecodeError("number out of range")
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


_decoder = msgspec.json.Decoder(float_hook=_number)


def json_type(value: Any) -> str:
    """JSON's name for the type of a decoded value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {"str": "string", "list": "array", "dict": "object"}.get(type(value).__name__, "value")


def _check_encoding(request: Request) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported; send the body uncompressed")


def _check_media_type(request: Request, any_media_type: bool) -> None:
    _check_encoding(request)
    kind = request.mimetype
    if kind == content_types.JSON or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if any_media_type and kind in _UNSPECIFIC:
        return
    raise UnsupportedMediaType("Expected request with `Content-Type: application/json`")


def _read(request: Request, limit_bytes: int) -> bytes:
    """The body; at most one read beyond the limit, because a chunked body does not announce its length."""
    message = f"the request body must be at most {limit_bytes} bytes"
    if request.content_length is not None and request.content_length > limit_bytes:
        raise PayloadTooLarge(f"{message}. Given: {request.content_length}")
    parts: list[bytes] = []
    size = 0
    while part := _read_part(request):
        size += len(part)
        if size > limit_bytes:
            raise PayloadTooLarge(message)
        parts.append(part)
    if request.content_length is not None and size < request.content_length:
        # gunicorn takes the end of the connection for the end of such a body.
        raise MalformedBody(_CUT)
    return b"".join(parts)


def _read_part(request: Request) -> bytes:
    """The next bytes, b"" at the end. gunicorn parses chunks only now, so their errors are raised here."""
    try:
        return request.stream.read(_READ_BYTES)
    except ClientTooSlow as exc:
        raise RequestTimeout from exc
    except (ParseException, NoMoreData, ClientDisconnected) as exc:
        # werkzeug hides the cause if the body has a known length.
        if isinstance(exc.__context__, ClientTooSlow):
            raise RequestTimeout from exc
        raise MalformedBody(_CUT) from exc
