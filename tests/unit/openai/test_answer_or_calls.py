"""A constraint beside tools: the answer fits it, or it is a call."""

from __future__ import annotations

from typing import Any

import pytest

from container.api.openai.call_grammar import MarkIds, answer_or_calls
from container.api.openai.tool_parsers import PLAIN, Form
from container.api.openai.tool_parsers.forms import FORMS
from handler.seam.protocol import Grammar
from tests.support.grammars import takes
from tests.unit.openai.test_foreign_fields import chat

TOOL = {"function": {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}
CALLS = {
    "plain JSON": '{"name": "f", "arguments": {}}',
    "llama-3": '{"name": "f", "parameters": {}}',
    "hermes": '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
GBNF = 'root ::= "{" (root | "x") "}"'
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"guided_choice": ["yes", "no"]}, ["yes", "no"], ["maybe"]),
    ({"guided_regex": "[0-9]{3}/[a-z]"}, ["123/a"], ["12/a", "123"]),
    ({"response_format": {"type": "regex", "value": "a+"}}, ["aa"], ["b"]),
    ({"ebnf": GBNF}, ["{x}", "{{x}}"], ["{x"]),
    ({"guided_json": SCHEMA}, ['{"n": 1}', "{}"], ['{"n": "x"}']),
    ({"guided_json": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
     ['{"name": "f"}', '{"name": "x"}'], ["{}"]),
    ({"guided_json": {"type": "array", "items": {"type": "boolean"}}}, ["[false, true]", "[]"], ["[1]"]),
    ({"response_format": {"type": "json_object"}}, ['{"names": []}', '{"name": "f"}'], ["[]"]),
    ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, ['{"n":1}'], ['{"n": 1}']),
]  # fmt: skip


def grammar(form: Form, fields: dict[str, Any]) -> Grammar:
    found = chat(tools=[TOOL], **fields)
    assert found.constraint is not None
    assert found.tools is not None
    return answer_or_calls(found.constraint.grammar, found.tools, form, MarkIds(lambda _: None, lambda _: None))


@pytest.mark.parametrize("form", [PLAIN, *FORMS], ids=lambda form: form.name)
@pytest.mark.parametrize(("fields", "fits", "others"), CASES)
def test_an_answer_or_a_call(form: Form, fields: dict[str, Any], fits: list[str], others: list[str]) -> None:
    found = grammar(form, fields)
    fits = [*fits, *([CALLS[form.name]] if form.name in CALLS else [])]
    assert all(takes(found, text) for text in fits)
    assert not any(takes(found, text) for text in others)
