"""Whether and how a client sees thoughts (vLLM's and SGLang's fields), and the `echo` of a chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import USER, ScriptedServer

THOUGHT = "<think>\nfirst, then\n</think>\n\nanswer"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def seen(server: ScriptedServer, *messages: Any, **fields: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The whole message, and the deltas of the same answer streamed."""
    message = server.ok(*messages, **fields)["choices"][0]["message"]
    return message, [chunk["choices"][0]["delta"] for chunk in server.chunks(*messages, **fields)]


def text_of(deltas: list[dict[str, Any]], field: str) -> str:
    return "".join(delta.get(field) or "" for delta in deltas)


@pytest.mark.parametrize(
    ("fields", "reasoning", "content"),
    [
        ({}, "first, then", "answer"),
        ({"include_reasoning": True, "separate_reasoning": True, "stream_reasoning": True}, "first, then", "answer"),
        ({"include_reasoning": False}, "", "answer"),
        ({"include_reasoning": False, "stream_reasoning": False}, "", "answer"),
        ({"separate_reasoning": False}, "", THOUGHT),
        ({"stream_reasoning": False}, "first, then", "answer"),
        ({"include_reasoning": False, "logprobs": True}, "", "answer"),
    ],
)
@pytest.mark.parametrize("num_bytes", [1, 5, 99])
def test_thoughts_are_shown_as_asked(
    thinker: ScriptedServer, num_bytes: int, fields: dict[str, Any], reasoning: str, content: str
) -> None:
    thinker.engine.says(THOUGHT)
    thinker.engine.bytes_per_step = num_bytes
    message, deltas = seen(thinker, **fields)
    assert (message.get("reasoning_content", ""), message["content"]) == (reasoning, content)
    assert (text_of(deltas, "reasoning_content"), text_of(deltas, "content")) == (reasoning, content)
    if fields.get("stream_reasoning") is False:
        assert sum("reasoning_content" in delta for delta in deltas) == bool(reasoning)


@pytest.mark.parametrize("num_bytes", [1, 5, 99])
def test_hidden_thoughts_are_counted(thinker: ScriptedServer, num_bytes: int) -> None:
    thinker.engine.says(THOUGHT)
    thinker.engine.bytes_per_step = num_bytes
    options = ({}, {"include_reasoning": False}, {"stream_reasoning": False})
    answers = [thinker.ok(**each)["usage"]["completion_tokens_details"]["reasoning_tokens"] for each in options]
    assert len(set(answers)) == 1
    assert answers[0] > 0


def test_a_thought_that_never_ends_is_shown_or_not(thinker: ScriptedServer) -> None:
    thinker.engine.says("<think>on and on")
    assert seen(thinker, stream_reasoning=False)[0]["reasoning_content"] == "on and on"
    message, deltas = seen(thinker, include_reasoning=False)
    assert message["content"] == text_of(deltas, "content") == ""
    assert "reasoning_content" not in message


def test_calls_after_a_hidden_thought(thinker: ScriptedServer) -> None:
    thinker.engine.says('<think>a</think>\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')
    for fields in ({"include_reasoning": False}, {"stream_reasoning": False}, {"separate_reasoning": False}):
        message = thinker.ok(tools=[TOOL], **fields)["choices"][0]["message"]
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]


SAID = {"role": "assistant", "content": "Once upon"}
IN_PARTS = {"role": "assistant", "content": [{"type": "text", "text": "Once"}, {"type": "text", "text": " upon"}]}


@pytest.mark.parametrize(
    ("last", "fields", "text"),
    [
        (SAID, {"echo": True, "continue_final_message": True}, "Once upon a time"),
        (SAID, {"echo": True, "add_generation_prompt": False}, "Once upon a time"),
        (IN_PARTS, {"echo": True, "continue_final_message": True}, "Once upon a time"),
        (SAID, {"echo": True}, "Once upon a time"),
        (SAID, {"echo": False, "continue_final_message": True}, " a time"),
        (USER, {"echo": True}, " a time"),
    ],
)
def test_an_echo_repeats_the_message_that_is_continued(
    qwen: ScriptedServer, last: Any, fields: dict[str, Any], text: str
) -> None:
    """vLLM's rule: the answer begins with the last message if both are the assistant's."""
    qwen.engine.says(" a time")
    message, deltas = seen(qwen, USER, last, **fields)
    assert message["content"] == text_of(deltas, "content") == text


def test_an_echo_of_somebody_else_is_refused(qwen: ScriptedServer) -> None:
    answer = qwen.chat(USER, echo=True, add_generation_prompt=False)
    assert (answer.status, answer.json["error"]["param"]) == (400, "echo")


def test_documents_and_templates_are_refused_by_name(qwen: ScriptedServer) -> None:
    answer = qwen.chat(documents=[{"text": "x"}])
    assert (answer.status, answer.json["error"]["param"]) == (400, "documents")
    answer = qwen.chat(chat_template="{{ messages }}")
    assert (answer.status, answer.json["error"]["param"]) == (400, "chat_template")
    assert "TRUST_REQUEST_CHAT_TEMPLATE" in answer.json["error"]["message"]


ROUTES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "/v1/chat/completions": ({"messages": [USER]}, ("completion_tokens_details", "reasoning_tokens")),
    "/v1/responses": ({"input": "hi"}, ("output_tokens_details", "reasoning_tokens")),
    "/v1/messages": ({"messages": [USER], "max_tokens": 500}, ("output_tokens_details", "thinking_tokens")),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("template", "answer"),
    [
        ("qwen3", "<think>\nHm.\n</think>\n\nHello"),
        ("qwen3-marked", "<think>\nHm.\n</think>\n\nHello"),
        ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello"),
    ],
)
def test_tokens_of_thoughts_are_those_however_a_message_was_cut(
    server_for: Callable[[str], ScriptedServer], template: str, answer: str, route: str
) -> None:
    server = server_for(template)
    body, (details, name) = ROUTES[route]
    counts = []
    for size in (1, 4, 200):
        server.engine.says(answer)
        server.engine.bytes_per_step = size
        counts.append(server.request("POST", route, body).json["usage"][details][name])
    assert 0 < counts[0] < len(server.engine.token_ids(answer))
    assert counts == counts[:1] * 3
