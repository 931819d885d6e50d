"""What the engine is told of a budget for thoughts whose marks are tokens, but no control tokens."""

from __future__ import annotations

import pytest

from container.api.openai.thinking_budget import thinking_limit
from container.api.openai.thought_forms import forms_of
from tests.unit.openai.marked_answers import tokenizer_with

MARKS = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("prompt", "begun", "opened"),
    [
        ("What does <think> mean?", False, False),
        ("What does <think> mean?", None, True),
        ("a</think>", True, True),
        ("<think>\n", None, True),
        ("<think>a</think>", None, False),
    ],
)
def test_words_of_a_message_begin_no_thought(prompt: str, begun: bool | None, opened: bool) -> None:
    tokenizer = tokenizer_with((), plain=MARKS)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    assert tokenizer.marker_token_id(MARKS[0]) is not None
    found = thinking_limit(5, ids, tokenizer, forms=forms_of("<think>", ()), begun=begun)
    assert found is not None
    assert (found.opened_by == ()) == opened
