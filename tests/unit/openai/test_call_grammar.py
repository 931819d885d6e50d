"""Marks in grammars of calls: by id where the vocabulary holds them as one token, whether control token or not."""

from __future__ import annotations

import pytest

from container.api.openai.call_grammar import MarkIds, forced_calls, text_with_calls
from container.api.openai.tool_parsers import FORMS, Form
from container.api.openai.tools import Function, ToolUse

NAMED = {form.name: form for form in FORMS}
STRICT = (Function("f", "", {"type": "object", "properties": {}, "additionalProperties": False}, strict=True),)
PLAIN_MARKS = {"<tool_call>": 300, "</tool_call>": 301, "<think>": 302, "</think>": 303}
PLAIN = MarkIds(PLAIN_MARKS.get, lambda _mark: None)
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
