"""Plain JSON values -> a typed request, or an error that names the field, the allowed values and the given one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from container.api.value_path import ANY_KEY, Step, replaced, steps_of, value_at
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
        raise _explain(str(exc), body, kind, allowed or {}) from exc
    except RecursionError as exc:
        raise InvalidRequest("the request is nested too deeply") from exc


def check(field: str, allowed: str, value: Any, ok: bool) -> None:
    """Raise InvalidRequest unless `ok`; `allowed` completes "`field` must be ..."."""
    if not ok:
        raise InvalidRequest(f"`{field}` must be {allowed}. Given: {show(value)}", param=field)


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Errors raised inside name the field at `place`."""
    try:
        yield
    except InvalidRequest as exc:
        raise InvalidRequest(f"`{place}`: {exc.message}", param=place) from exc


def show(value: Any) -> str:
    """A value as JSON, shortened: messages must stay short (SageMaker quotes at most 2,048 characters)."""
    if isinstance(value, dict | list):
        return json_type(value)
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _explain(text: str, body: Any, kind: Any, allowed: Mapping[str, str]) -> InvalidRequest:
    found = _PATH.match(text)
    reason, path = (found["text"], found["path"].lstrip(".")) if found else (text, "")
    field = _quoted_field(reason)
    found_steps = _with_keys(text, body, kind, steps_of(f".{path}"))
    steps = [step if isinstance(step, int) else step[:_SHOWN_CHARS] for step in found_steps]
    place = _spelt(steps)
    param = ".".join(filter(None, (place, field))) or None
    suffix = f". Given: {show(value_at(body, found_steps))}" if found and path and field is None else ""
    words = allowed.get(re.sub(r"\[\d+\]", "[]", path)) if field is None else None
    steps += [] if field is None else [field]
    if words is not None:
        return InvalidRequest(f"`{place}` must be {words}{suffix}", param=param, steps=steps)
    prefix = f"`{place}`: " if path else ""
    return InvalidRequest(f"{prefix}{_lower_first(reason)[:_MAX_REASON_CHARS]}{suffix}", param=param, steps=steps)


def _with_keys(text: str, body: Any, kind: Any, steps: list[Step]) -> list[Step]:
    """The steps with the keys that msgspec leaves out: of a dict's keys, the first that gives the same error alone."""
    steps = list(steps)
    # A client may choose the key "..." too, so each place is looked at once.
    for place in [i for i, step in enumerate(steps) if step == ANY_KEY]:
        before = steps[:place]
        keys = list(value_at(body, before))
        while len(keys) > 1:
            half = keys[: len(keys) // 2]
            kept = {key: value_at(body, [*before, key]) for key in half}
            keys = half if _error(replaced(body, before, kept), kind) == text else keys[len(half) :]
        steps[place] = keys[0]
    return steps


def _spelt(steps: list[Step]) -> str:
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return "".join(parts).removeprefix(".")


def _error(body: Any, kind: Any) -> str | None:
    try:
        msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        return str(exc)
    return None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _quoted_field(reason: str) -> str | None:
    """The field in msgspec's "missing required field `x`" and "unknown field `x`"."""
    found = re.fullmatch(r"Object (?:missing required|contains unknown) field `([^`]+)`", reason)
    return found[1][:_SHOWN_CHARS] if found else None
