"""Bodies of a wrong shape, refused in the words of axum and serde_json, which TGI's clients see."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from flask import g

from container.api.tgi.request.json_position import position
from container.api.value_path import Step, steps_of, value_at
from container.errors import WrongShape

T = TypeVar("T")

_PATH = re.compile(r"^(?P<text>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_TYPE = re.compile(r"^Expected `(?P<type>[\w |]+)`, got ")
_SHOWN_CHARS = 120

# What serde expected: by field where msgspec's type name says too little.
_BY_FIELD = {
    "parameters": "struct GenerateParameters",
    "grammar": "adjacently tagged enum GrammarType",
    "best_of": "usize",
    "truncate": "usize",
    "top_k": "i32",
    "max_new_tokens": "u32",
    "top_n_tokens": "u32",
    "max_tokens": "u32",
    "seed": "u64",
}
_BY_TYPE = {"str": "a string", "bool": "a boolean", "array": "a sequence", "object": "a map", "float": "f32"}
_GRAMMARS = "expected one of `json`, `json_object`, `regex`, `json_schema`"


def shaped(body: dict[str, Any], kind: type[T], at: Sequence[Step] = ()) -> T:
    """`body` as `kind`, a msgspec struct; `at` is its position in the request body. Raises WrongShape."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        raise WrongShape(_explain(str(exc), body, at), param=_parameter(str(exc))) from exc
    except RecursionError as exc:
        raise WrongShape("recursion limit exceeded") from exc


def _parameter(text: str) -> str | None:
    found = _PATH.match(text)
    return (found["path"] or "").lstrip(".") or None if found else None


def _explain(text: str, body: dict[str, Any], at: Sequence[Step]) -> str:
    found = _PATH.match(text)
    reason, path = (found["text"], found["path"] or "") if found else (text, "")
    steps = steps_of(path)
    missing = re.match(r"Object missing required field (`.*`)", reason)
    said = f"missing field {missing[1]}" if missing else _refusal(reason, steps, value_at(body, steps))
    found_at = position(_raw_body(), [*at, *steps], missing=missing is not None)
    where = "" if found_at is None else f" at line {found_at.line} column {found_at.column}"
    shown = "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in [*at, *steps]).lstrip(".")
    return f"{shown}: {said}{where}" if shown else f"{said}{where}"


def _refusal(reason: str, steps: list[Step], value: Any) -> str:
    field = next((step for step in reversed(steps) if isinstance(step, str)), "")
    if reason.startswith("Invalid value"):
        return f"unknown variant `{_shorten(str(value))}`, {_GRAMMARS}"
    found = _TYPE.match(reason)
    inside = bool(steps) and isinstance(steps[-1], int)
    if found is None:
        return f"invalid value: {_unexpected(value)}, expected {_BY_FIELD.get(field, reason)}"
    by_type = _BY_TYPE.get(found["type"].removesuffix(" | null"), found["type"])
    expected = by_type if inside else _BY_FIELD.get(field, by_type)
    return f"invalid type: {_unexpected(value)}, expected {expected}"


def _unexpected(value: Any) -> str:
    """serde's name for a value it did not expect."""
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f"string {json.dumps(_shorten(value), ensure_ascii=False)}"
        case list():
            return "sequence"
        case _:
            return "map"


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _raw_body() -> str:
    raw: bytes = g.get("raw_body", b"")
    return raw.decode("utf-8", "replace")
