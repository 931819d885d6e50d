"""Thoughts between control tokens, which other texts leave out, through the real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import USER, ScriptedServer

CASES = [
    ({}, "[THINK]2+2[/THINK]4[REF]", "2+2", "4"),
    ({"chat_template_kwargs": {"thinking": True}}, "2+2[/THINK]4", "2+2", "4"),
    ({}, "Well: [THINK]2+2[/THINK]4", "2+2", "Well: 4"),
    ({"stop": "[/THINK]"}, "[THINK]2+2[/THINK]4", "2+2", ""),
    ({"stop": "+2[/TH"}, "[THINK]2+2[/THINK]4", "2", ""),
]


@pytest.fixture
def magistral(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    return server_for("marked-thoughts")


@pytest.mark.parametrize("bytes_per_step", [1, 100])
@pytest.mark.parametrize(("fields", "text", "reasoning", "content"), CASES)
def test_whole_and_streamed(
    magistral: ScriptedServer, fields: dict[str, Any], text: str, reasoning: str, content: str, bytes_per_step: int
) -> None:
    magistral.engine.says(text)
    magistral.engine.bytes_per_step = bytes_per_step
    found = magistral.ok(**fields)
    message = found["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (reasoning, content)
    assert found["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    deltas = [chunk["choices"][0]["delta"] for chunk in magistral.chunks(**fields)]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == reasoning
    assert "".join(delta.get("content") or "" for delta in deltas) == content


@pytest.mark.parametrize("bytes_per_step", [1, 100])
def test_thoughts_in_the_text_keep_the_letters_of_their_marks(magistral: ScriptedServer, bytes_per_step: int) -> None:
    said = "Well: [THINK]2+2[/THINK]4"
    magistral.engine.says(said)
    magistral.engine.bytes_per_step = bytes_per_step
    assert magistral.ok(separate_reasoning=False)["choices"][0]["message"]["content"] == said
    deltas = [chunk["choices"][0]["delta"] for chunk in magistral.chunks(separate_reasoning=False)]
    assert "".join(delta.get("content") or "" for delta in deltas) == said
    hidden = magistral.ok(separate_reasoning=False, include_reasoning=False)["choices"][0]["message"]
    assert (hidden["content"], "reasoning_content" in hidden) == ("Well: 4", False)


def test_a_format_ends_the_thought_that_the_prompt_has_begun(magistral: ScriptedServer) -> None:
    magistral.engine.says("{}")
    found = magistral.ok(chat_template_kwargs={"thinking": True}, response_format={"type": "json_object"})
    assert magistral.engine.prompt.endswith("[THINK][/THINK]")
    assert magistral.engine.requests[0].prompt_token_ids[-2:] == [260, 261]
    assert found["choices"][0]["message"]["content"] == "{}"


def test_thoughts_come_before_a_strict_call(magistral: ScriptedServer) -> None:
    magistral.engine.says('[THINK]2+2[/THINK]{"name": "f", "arguments": {}}')
    tool = {"function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    message = magistral.ok(USER, tools=[tool])["choices"][0]["message"]
    assert message["reasoning_content"] == "2+2"
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    grammar = magistral.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert "(THOUGHT <[260]>)? (THOUGHT <[261]>)? " in grammar.source
