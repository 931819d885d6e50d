"""Calls whose marks are control tokens, and calls in tags: as the model writes them, streamed, forced, replayed."""

# ruff: noqa: RUF001 - marks of DeepSeek have fullwidth bars

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_tools import TOOLS, WEATHER, accepts

# The tool format, a call of `weather`, a control token that is no mark of calls, the call in the next prompt.
FORMS = {
    "marks-deepseek": (
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜Assistant｜>",
    ),
    "marks-kimi": (
        "kimi-k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{}"
        "<|tool_call_end|><|tool_calls_section_end|>",
        "<|im_middle|>",
    ),
    "marks-gemma": ("gemma-4", '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|>', "<|image|>"),
    "marks-glm": (
        "glm-4.5",
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        "",
    ),
}


def written(template: str) -> str:
    return FORMS[template][1].replace("{}", '{"city": "Paris"}')


def calls_of(chunks: list[Any]) -> tuple[str, str, str]:
    """Content, name and arguments of a streamed answer."""
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    functions = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    content = "".join(delta.get("content") or "" for delta in deltas)
    return content, functions[0]["name"], "".join(function.get("arguments", "") for function in functions)


@pytest.mark.parametrize("template", FORMS)
@pytest.mark.parametrize("bytes_per_step", [1, 7])
def test_a_call_comes_back_as_a_call(
    server_for: Callable[[str], ScriptedServer], template: str, bytes_per_step: int
) -> None:
    server = server_for(template)
    server.engine.bytes_per_step = bytes_per_step
    other = FORMS[template][2]
    server.engine.says(f"{other}I look.\n{written(template)}{other}")
    choice = server.ok("hi", tools=TOOLS)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "I look.")
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Paris"})
    content, name, arguments = calls_of(server.chunks("hi", tools=TOOLS))
    assert (content, name, json.loads(arguments)) == ("I look.", "weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
    server.ok("hi", choice["message"], result, tools=TOOLS)
    assert written(template) in server.engine.prompt, "the call is replayed as the model wrote it"


@pytest.mark.parametrize("template", FORMS)
def test_forced_and_strict_calls_are_written_in_the_form(
    server_for: Callable[[str], ScriptedServer], template: str
) -> None:
    server = server_for(template)
    text = written(template)
    server.engine.says(text)
    for choice in ("required", "weather"):
        found = server.ok("hi", tools=TOOLS, tool_choice=choice)["choices"][0]
        assert found["message"]["tool_calls"][0]["function"]["name"] == "weather"
        assert accepts(server, text)
        assert not accepts(server, text.replace("weather", "wether"))
        assert not accepts(server, "I would rather talk.")
    strict = WEATHER | {"function": WEATHER["function"] | {"strict": True}}
    server.ok("hi", tools=[strict])
    assert accepts(server, f"I look.\n{text}")
    assert accepts(server, "I would rather talk of <tags> and {braces}.")
    assert not accepts(server, text.replace("city", "town"))


@pytest.mark.parametrize("template", FORMS)
def test_a_cut_call_is_no_content(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    text = written(template)
    server.engine.says(text)
    for length in range(1, len(server.engine.token_ids(text)), 5):
        found = server.ok("hi", tools=TOOLS, tool_choice="required", max_tokens=length)["choices"][0]
        assert found["finish_reason"] == "length"
        assert found["message"]["content"] is None


@pytest.mark.parametrize("template", FORMS)
def test_the_log_names_the_format_once(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    server.wait(lambda: "tool format: " in server.log.read_text())
    assert server.log.read_text().count(f"tool format: {FORMS[template][0]}") == 1


@pytest.mark.parametrize(
    ("template", "said"),
    [("smollm2", "the chat template takes no tools"), ("qwen2.5", "tool format: hermes")],
)
def test_the_log_says_what_is_not_read(server_for: Callable[[str], ScriptedServer], template: str, said: str) -> None:
    server = server_for(template)
    server.wait(lambda: said in server.log.read_text())
