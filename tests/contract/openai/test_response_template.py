"""Chats of a checkpoint that brings its own response_template, over HTTP and in three dialects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.openai.conftest import SPECIAL
from tests.contract.openai.scripted import ScriptedServer, started
from tests.contract.openai.test_call_forms import calls_of
from tests.contract.openai.test_tools import TOOLS, WEATHER, accepts
from tests.support.response_templates import TEMPLATES

GEMMA = "gemma4, read"
BARE = "calls without a known grammar"
BAD = "another version"
_NESTED = {"name": "{content.tool.name}", "arguments": "{content.tool.input}"}
_CALLS = {"open": "<call>", "close": "</call>", "content": "json", "transform": {"function": _NESTED}}
_OWN = {"start_anchor": "assistant\n", "fields": {"tool_calls": _CALLS, "content": {}}}
SERVERS: dict[str, tuple[str, tuple[str, ...], dict[str, Any], str]] = {
    GEMMA: (
        "marks-gemma",
        (*SPECIAL["marks-gemma"], "<|turn>", "<turn|>", "<|tool_response>"),
        TEMPLATES["gemma4"],
        "tool format: the checkpoint's response_template; forced and strict calls as gemma-4",
    ),
    BARE: (
        "qwen2.5", (), _OWN,
        "tool format: the checkpoint's response_template, for which no grammar is known; "
        "forced calls are written and read as hermes, strict functions are not held to their schemas",
    ),
    BAD: (
        "qwen2.5", (), {**_OWN, "version": 2},
        "tool format: hermes; the checkpoint's response_template is not used, its version is 2, not 1",
    ),
}  # fmt: skip
CALL = '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|>'
THOUGHT = "<|channel>thought\nRain?<channel|>"
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
NESTED = '<call>{"tool": {"name": "weather", "input": {"city": "Paris"}}}</call>'
NAMED = ("weather", {"city": "Paris"})


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ScriptedServer]]:
    found: dict[str, ScriptedServer] = {}
    for name, (template, special, own, _) in SERVERS.items():
        found[name] = started(tmp_path_factory.mktemp("own"), template, special, response_template=own)
    yield found
    for server in found.values():
        server.kill()
        server.engine.close()


def called(message: dict[str, Any]) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in message.get("tool_calls") or []]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


@pytest.mark.parametrize("name", SERVERS)
def test_the_log_says_who_reads_answers(servers: dict[str, ScriptedServer], name: str) -> None:
    server, line = servers[name], SERVERS[name][3]
    server.wait(lambda: line in server.log.read_text())


@pytest.mark.parametrize("bytes_per_step", [1, 5])
def test_thought_text_and_call_come_apart(servers: dict[str, ScriptedServer], bytes_per_step: int) -> None:
    server = servers[GEMMA]
    server.engine.bytes_per_step = bytes_per_step
    server.engine.says(f"{THOUGHT}I look.<|image|>\n{CALL}<|tool_response>")
    choice = server.ok("hi", tools=TOOLS)["choices"][0]
    message = choice["message"]
    assert (choice["finish_reason"], message["reasoning_content"], message["content"], called(message)) == (
        "tool_calls", "Rain?", "I look.", [NAMED]
    )  # fmt: skip
    content, name, arguments = calls_of(server.chunks("hi", tools=TOOLS))
    assert (content, (name, json.loads(arguments))) == ("I look.", NAMED)
    server.engine.says(f"{THOUGHT}Hello <b> \n<turn|>")
    assert server.ok("hi")["choices"][0]["message"]["content"] == "Hello <b>"


def test_the_other_dialects_read_by_it_too(servers: dict[str, ScriptedServer]) -> None:
    server = servers[GEMMA]
    server.engine.says(f"{THOUGHT}{CALL}")
    tool = {"type": "function", **WEATHER["function"]}
    body = server.request("POST", "/v1/responses", {"model": "m", "input": "hi", "tools": [tool]}).json
    assert [item["type"] for item in body["output"]] == ["reasoning", "function_call"]
    tool = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}
    asked = {"model": "claude-x", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    body = server.request("POST", "/v1/messages", asked).json
    assert body["content"][-1]["input"] == {"city": "Paris"}


@pytest.mark.parametrize(("name", "text"), [(GEMMA, CALL), (BARE, HERMES), (BAD, HERMES)])
def test_forced_and_strict_calls_are_written_in_a_form_that_is_read(
    servers: dict[str, ScriptedServer], name: str, text: str
) -> None:
    server = servers[name]
    server.engine.says(text)
    for choice in ("required", "weather"):
        assert called(server.ok("hi", tools=TOOLS, tool_choice=choice)["choices"][0]["message"]) == [NAMED]
        assert accepts(server, text)
        assert not accepts(server, text.replace("weather", "wether"))
    strict = WEATHER | {"function": WEATHER["function"] | {"strict": True}}
    if name == BARE:
        server.engine.says(NESTED)
    assert called(server.ok("hi", tools=[strict])["choices"][0]["message"]) == [NAMED]
    assert name == BARE or accepts(server, f"I look.\n{text}")


def test_a_call_of_no_known_form_is_read_by_the_template_alone(servers: dict[str, ScriptedServer]) -> None:
    for name, expected in ((BARE, [NAMED]), (BAD, [])):
        servers[name].engine.says(f"I look. {NESTED}")
        message = servers[name].ok("hi", tools=TOOLS)["choices"][0]["message"]
        assert called(message) == expected
        assert message["content"] == ("I look." if expected else f"I look. {NESTED}")


def test_an_answer_that_a_grammar_writes_needs_no_marks(servers: dict[str, ScriptedServer]) -> None:
    server = servers[GEMMA]
    server.engine.says('{"a": "<b>"}')
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    for more in ({}, {"tools": TOOLS}):
        message = server.ok("hi", response_format=schema, **more)["choices"][0]["message"]
        assert message["content"] == '{"a": "<b>"}'
