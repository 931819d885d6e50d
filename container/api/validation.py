"""Plain JSON values -> a typed request, or an error that names the field, what is allowed and what was given."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from container.body import json_type
from container.errors import InvalidRequest

T = TypeVar("T")

_PATH = re.compile(r"^(?P<text>.*) - at `\$(?P<path>[^`]*)`$", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_SHOWN_CHARS = 80


def convert(body: dict[str, Any], kind: type[T]) -> T:
    """`body` as `kind`, a msgspec struct. Raises InvalidRequest."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        raise _explain(str(exc), body) from exc
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


def _explain(text: str, body: Any) -> InvalidRequest:
    found = _PATH.match(text)
    reason, path = (found["text"], found["path"].lstrip(".")) if found else (text, "")
    reason = reason.replace("Object ", "object ", 1) if not path else reason
    param = path or _quoted_field(reason)
    prefix = f"`{path}`: " if path else ""
    given = _value_at(body, found["path"]) if found else None
    suffix = f". Given: {show(given)}" if found and path else ""
    return InvalidRequest(f"{prefix}{_lower_first(reason)}{suffix}", param=param)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _quoted_field(reason: str) -> str | None:
    """The field in msgspec's "missing required field `x`" and "unknown field `x`"."""
    found = re.search(r"field `([^`]+)`", reason)
    return found[1] if found else None


def _value_at(body: Any, path: str) -> Any:
    """The value msgspec's path points to; None where the path cannot be followed exactly."""
    value = body
    for step in _STEP.finditer(path):
        key: Any = step["key"] if step["key"] is not None else step["index"]
        if step["key"] is None and key != "...":
            key = int(key)
        try:
            value = value[key]
        except (LookupError, TypeError):
            return None
    return value
