"""Plain JSON values -> a typed request, or an error that names the field, the allowed values and the given one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from container.api.value_path import steps_of, value_at
from container.errors import InvalidRequest
from container.web.body import json_type

T = TypeVar("T")

_PATH = re.compile(r"^(?P<text>.*) - at `\$(?P<path>[^`]*)`$", re.DOTALL)
_SHOWN_CHARS = 80
_MAX_REASON_CHARS = 400


def convert(body: dict[str, Any], kind: type[T], allowed: Mapping[str, str] | None = None) -> T:
    """`body` as `kind`, a msgspec struct. Raises InvalidRequest.

    `allowed` describes places where msgspec's message says too little: "messages[].role" -> "one of user, ...".
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        raise _explain(str(exc), body, allowed or {}) from exc
    except RecursionError as exc:
        raise InvalidRequest("the request is nested too deeply") from exc


def check(field: str, allowed: str, value: Any, ok: bool) -> None:
    """Raise InvalidRequest unless `ok`; `allowed` completes "`field` must be ..."."""
    if not ok:
        raise InvalidRequest(f"`{field}` must be {allowed}. Given: {show(value)}", param=field)


def show(value: Any) -> str:
    """A value as JSON, shortened: messages must stay short (SageMaker quotes at most 2,048 characters)."""
    if isinstance(value, dict | list):
        return json_type(value)
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _explain(text: str, body: Any, allowed: Mapping[str, str]) -> InvalidRequest:
    found = _PATH.match(text)
    reason, path = (found["text"], found["path"].lstrip(".")) if found else (text, "")
    field = _quoted_field(reason)
    param = ".".join(filter(None, (path, field))) or None
    given = value_at(body, steps_of(found["path"])) if found else None
    suffix = f". Given: {show(given)}" if found and path and field is None else ""
    words = allowed.get(re.sub(r"\[\d+\]", "[]", path)) if field is None else None
    if words is not None:
        return InvalidRequest(f"`{path}` must be {words}{suffix}", param=param)
    prefix = f"`{path}`: " if path else ""
    return InvalidRequest(f"{prefix}{_lower_first(reason)[:_MAX_REASON_CHARS]}{suffix}", param=param)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _quoted_field(reason: str) -> str | None:
    """The field in msgspec's "missing required field `x`" and "unknown field `x`"."""
    found = re.fullmatch(r"Object (?:missing required|contains unknown) field `([^`]+)`", reason)
    return found[1][:_SHOWN_CHARS] if found else None
