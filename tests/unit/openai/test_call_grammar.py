"""Marks in grammars of calls: by id where the vocabulary holds them as one token, whether control token or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from container.api.openai.argument_grammar import json_arguments
from container.api.openai.call_grammar import MarkIds, forced_calls, text_with_calls
from container.api.openai.tool_parsers import FORMS, Form
from container.api.openai.tools import Function, ToolUse
from container.api.openai.written_calls import written_calls
from container.errors import InvalidRequest
from tests.support.grammars import takes

NAMED = {form.name: form for form in FORMS}
STRICT = (Function("f", "", {"type": "object", "properties": {}, "additionalProperties": False}, strict=True),)
PLAIN_MARKS = {"<tool_call>": 300, "</tool_call>": 301, "<think>": 302, "</think>": 303}
PLAIN = MarkIds(PLAIN_MARKS.get, lambda _mark: None)
NO_IDS = MarkIds(lambda _mark: None, lambda _mark: None)
CONTROL = MarkIds(PLAIN_MARKS.get, PLAIN_MARKS.get, ("<think>", "</think>"))


@pytest.mark.parametrize("ids", [PLAIN, CONTROL])
@pytest.mark.parametrize("form", [NAMED["hermes"], NAMED["qwen3-coder"]], ids=lambda form: form.name)
def test_forced_calls_write_marks_by_id(ids: MarkIds, form: Form) -> None:
    source = forced_calls(ToolUse(STRICT, STRICT, parallel=True), form, ids).source
    assert "<[300]>" in source
    assert "<[301]>" in source
    assert "tool_call" not in source


def test_text_holds_plain_marks_and_no_control_tokens() -> None:
    use = ToolUse(STRICT, (), parallel=False)
    plain = text_with_calls(use, NAMED["hermes"], PLAIN).source
    assert 'head[lazy]: /(.|\\n)*/ "<tool_call>"' in plain
    assert "<[302]>" not in plain, "a thought between plain marks is text"
    control = text_with_calls(use, NAMED["hermes"], CONTROL).source
    assert "head: TEXT <[300]>" in control
    assert "(THOUGHT <[302]>)? (THOUGHT <[303]>)? " in control


def test_data_that_spells_a_mark_stays_data() -> None:
    schema = {"type": "object", "properties": {"<think>": {"const": "</tool_call>"}}, "required": ["<think>"]}
    function = Function("f", "", schema, strict=True)
    source = forced_calls(ToolUse((function,), (function,), parallel=False), NAMED["hermes"], PLAIN).source
    assert '{"const": "</tool_call>"}' in source
    assert '"<think>"' in source


@pytest.mark.parametrize(
    ("parameters", "written"),
    [
        ({}, {"type": "object", "additionalProperties": False}),
        ({"type": "object", "required": ["z"]}, {"type": "object", "required": ["z"]}),
        ({"type": ["object", "null"], "additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        (
            {"anyOf": [{"type": "object", "properties": {name: {}}, "required": [name]} for name in "ab"]},
            {
                "anyOf": [
                    {"type": "object", "properties": {name: {}}, "required": [name], "additionalProperties": False}
                    for name in "ab"
                ],
                "type": "object",
            },
        ),
    ],
)
def test_arguments_are_an_object_and_nothing_that_describes_it_is_shut_out(parameters: Any, written: Any) -> None:
    _, expression = json_arguments(Function("f", "", parameters, strict=True), "a")
    (rule,), _ = json_arguments(Function("f", "", parameters, strict=True), "a")
    assert expression == "a"
    found = json.loads(rule.removeprefix("a: %json "))
    assert {key: found[key] for key in found if key != "x-guidance"} == written


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": ["array", "null"]}, {"enum": [1]}])
def test_arguments_that_are_no_object_are_refused(parameters: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^`parameters` of f must be the schema of an object\. Given: "):
        json_arguments(Function("f", "", parameters, strict=True), "a")


WORDS = [
    # A schema, what Python writes of it, and what it does not.
    ({"type": "boolean"}, ["True", "False", "true"], ["None"]),
    ({"type": "boolean", "enum": [True]}, ["True", "true"], ["False", "false"]),
    ({"const": False}, ["False"], ["True"]),
    ({"type": ["string", "null"], "enum": ["a"]}, ['"a"'], ["None", "null"]),
    ({"enum": ["a", 1, None]}, ["None", "1"], ["True"]),
    ({"anyOf": [{"type": "boolean", "const": True}, {"type": "null"}]}, ["True", "None"], ["False"]),
    ({"anyOf": [{"$ref": "#/$defs/no"}, {"type": "integer"}]}, ["False", "3"], ["True"]),
    ({"type": ["boolean", "null"], "anyOf": [{"type": "null"}]}, ["None"], ["True"]),
    ({"type": ["integer", "null"]}, ["None", "3"], ["True"]),
    ({"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]}, ["None"], ["True"]),
]


@pytest.mark.parametrize(("schema", "allowed", "refused"), WORDS)
@pytest.mark.parametrize("form", ["pythonic", "lfm-2"])
def test_pythons_words_are_values_that_the_schema_allows(
    form: str, schema: dict[str, Any], allowed: list[str], refused: list[str]
) -> None:
    definitions = {"no": {"const": False}, "loop": {"anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]}}
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"], "$defs": definitions}
    function = Function("f", "", parameters, strict=True)
    grammar = forced_calls(ToolUse((function,), (function,), parallel=True), NAMED[form], NO_IDS)
    texts = {value: str(written_calls(NAMED[form], [("f", {"x": "VALUE"})])).replace('"VALUE"', value)
             for value in (*allowed, *refused)}  # fmt: skip
    assert [value for value, text in texts.items() if takes(grammar, text)] == allowed
