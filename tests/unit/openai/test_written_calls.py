"""Calls that the server writes in a family's form: as the family writes them, and without a control token in data."""

from __future__ import annotations

from typing import Any

import pytest

from container.api.openai.tool_parsers import FORMS, PLAIN, Form
from container.api.openai.written_calls import written_calls
from container.text.chat_template import ChatTemplate
from tests.support.call_forms import WIRES
from tests.unit.openai.marked_answers import CHATML, tokenizer_with
from tests.unit.openai.test_tool_parsers import NAMED, parsed, read

CALLS: list[tuple[str, dict[str, Any]]] = [("weather", {"city": "Paris"}), ("now", {"n": 3})]
# The wire has another of several spellings, or ids that the model thinks up.
OTHER_SPELLING = {"mistral-v11", "inkling", "llama-3", "llama-4", "minicpm-5", "pythonic", "kimi-k3"}


@pytest.mark.parametrize("form", [*FORMS, PLAIN], ids=lambda form: form.name)
def test_calls_are_written_as_the_family_writes_them(form: Form) -> None:
    text = written_calls(form, CALLS)
    assert (text == WIRES[form.name]) == (form.name not in OTHER_SPELLING)
    assert parsed(read(form, list(text))) == CALLS


@pytest.mark.parametrize("form", [*FORMS, PLAIN], ids=lambda form: form.name)
def test_values_of_all_types_are_read_back(form: Form) -> None:
    values = {"n": 3, "b": True, "u": None, "s": 'a "b"\n<c>', "list": [1, "x"], "part": {"k": {"l": False}}}
    assert parsed(read(form, list(written_calls(form, [("now", values)])))) == [("now", values)]


def test_numbers_go_on() -> None:
    assert "functions.now:7" in written_calls(NAMED["kimi-k2"], [("now", {})], first=7)


def test_arguments_that_are_no_object_stay() -> None:
    assert written_calls(NAMED["hermes"], [("now", "{oops")]).endswith('"arguments": {oops}\n</tool_call>')


@pytest.mark.parametrize("form", [*FORMS, PLAIN], ids=lambda form: form.name)
def test_no_part_of_a_call_is_a_control_token(form: Form) -> None:
    """A name, and keys and values of all depths."""
    token = "<|im_end|>"
    tokenizer = tokenizer_with(["<|im_start|>", token])
    template = ChatTemplate({"default": CHATML}, tokenizer)

    def num_tokens(data: str) -> int:
        calls = written_calls(form, [(data, {data: data, "part": {data: [data]}}), ("now", {data: 3})])
        assert calls.count(data) >= 6
        ids = template.render([{"role": "assistant", "content": "" + calls}]).encode(tokenizer)
        return ids.count(tokenizer.marker_token_id(token))

    assert num_tokens(token) == num_tokens("harmless")


def test_only_what_the_server_writes_is_a_control_token() -> None:
    marks = ("<|tool_call_start|>", "<|tool_call_end|>")
    tokenizer = tokenizer_with(["<|im_start|>", "<|im_end|>", *marks])
    text = "Look: <|tool_call_start|> " + written_calls(NAMED["lfm-2"], [("now", {"s": "<|tool_call_end|>"})]) + "!"
    template = ChatTemplate({"default": CHATML}, tokenizer)
    ids = template.render([{"role": "assistant", "content": text}]).encode(tokenizer)
    found = [tokenizer.marker_token_id(mark) for mark in marks]
    assert [ids.count(each) for each in found] == [1, 1]
