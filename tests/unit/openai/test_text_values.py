"""Values that calls write as text: what the form cannot hold is refused by name, never dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from container.api.openai.argument_grammar import arguments_of
from container.api.openai.tool_parsers import FORMS
from container.api.openai.tools import Function
from container.errors import InvalidRequest

TEXT = {"type": "string"}
XML = next(form for form in FORMS if form.name == "qwen3-coder")


class Plain:
    """A tokenizer without control tokens."""

    def literal(self, text: str) -> str:
        return json.dumps(text)

    def has_control(self, text: str) -> bool:
        return False


def arguments(part: Any) -> Any:
    schema = {
        "type": "object",
        "properties": {"a": part},
        "required": ["a"],
        "$defs": {"A": TEXT, "B": {"allOf": [TEXT]}},
    }
    return arguments_of(Function("f", "", schema, strict=True), "x", XML, Plain())


@pytest.mark.parametrize(
    ("part", "keyword"),
    [
        (TEXT | {"allOf": [{"maxLength": 2}]}, "allOf"),
        ({"$ref": "#/$defs/A", "maxLength": 1}, "maxLength"),
        ({"$ref": "#/$defs/B"}, "allOf"),
        (TEXT | {"maxLength": 3, "anyOf": [{"minLength": 2}]}, "maxLength"),
        ({"enum": ["a", "b"], "pattern": "a"}, "pattern"),
        ({"oneOf": [TEXT, TEXT | {"maxLength": 2}]}, "oneOf"),
        (TEXT | {"not": {"const": "a"}}, "not"),
        ({"anyOf": [{"type": "null"}, TEXT | {"allOf": [{}]}]}, "allOf"),
        (TEXT | {"pattern": "a"}, "pattern"),
    ],
)
def test_what_text_may_break_is_refused_by_name(part: Any, keyword: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^`{keyword}` of f.a cannot be enforced in the form this model"):
        arguments(part)


@pytest.mark.parametrize(
    "part",
    [
        True,
        TEXT | {"minLength": 1, "maxLength": 3, "title": "T", "default": "a"},
        {"$ref": "#/$defs/A", "description": "d"},
        {"anyOf": [TEXT, {"type": "null"}], "default": None},
        {"type": "string", "enum": ["a", "b"]},
        {"oneOf": [TEXT, {"type": "integer", "allOf": [{"minimum": 1}]}]},
        {"type": "array", "items": TEXT | {"allOf": [{"maxLength": 2}]}},
        {"type": "integer", "allOf": [{"minimum": 1}]},
    ],
)
def test_what_is_held_is_taken(part: Any) -> None:
    arguments(part)
