"""The JSON of a value that a model wrote without quotes: its type comes from the function's schema."""

from __future__ import annotations

import json
from typing import Any

_WORDS = {"True": True, "False": False, "None": None}


def as_json(text: str, types: frozenset[str]) -> str:
    """The text itself if it is JSON of one of `types`, else the text as a string. Empty `types` accept anything."""
    stripped = text.strip()
    try:
        value = _WORDS[stripped] if stripped in _WORDS else json.loads(stripped, parse_constant=_refuse)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, str) or (types and not types & _types_of_value(value)):
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(value) if stripped in _WORDS else stripped


def escaped(text: str) -> str:
    """The inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _types_of_value(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if float(value).is_integer() else {"number"}
    return {"array"} if isinstance(value, list) else {"object"}
