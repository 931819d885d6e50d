"""The JSON of a value that a model wrote without quotes: its type comes from the function's schema."""

from __future__ import annotations

import json
from typing import Any

from container.api.openai.tool_parsers.python_literal import NotACall, read_literal

_WORDS = {"True": True, "False": False, "None": None}


def as_json(text: str, types: frozenset[str]) -> str:
    """The text itself if it is JSON of one of `types`, else the text as a string. Empty `types` accept anything.

    Templates of Seed-OSS, MiniCPM 5 and Qwen3-Coder print values as Python does; those become JSON.
    """
    stripped = text.strip()
    value, written = _value(stripped, types)
    if isinstance(value, str) or (types and not types & _types_of_value(value)):
        return json.dumps(text, ensure_ascii=False)
    return written


def _value(text: str, types: frozenset[str]) -> tuple[Any, str]:
    """What the text says, and its JSON; the text itself if it says nothing."""
    if text in _WORDS:
        return _WORDS[text], json.dumps(_WORDS[text])
    try:
        return json.loads(text, parse_constant=_refuse), text
    except (ValueError, RecursionError):
        pass
    if types and "string" not in types and text[:1] in {"{", "["}:
        try:
            value = read_literal(text)
        except NotACall:
            return text, text
        return value, json.dumps(value, ensure_ascii=False)
    return text, text


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
