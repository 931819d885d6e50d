"""Tools: what the model is told, what it is held to, and how its calls come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from llguidance import LLMatcher
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.contract.openai.scripted import ScriptedServer

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/c"}},
    "required": ["city"],
    "$defs": {"c": {"type": "string"}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}}
NOW = {"type": "function", "function": {"name": "now", "strict": True}}
TOOLS = [WEATHER, NOW]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
BY_FAMILY = {
    "qwen2.5": CALL,
    "qwen3": f"<think>\nHm.\n</think>\n\n{CALL}",
    "llama-3.3": '{"name": "weather", "parameters": {"city": "Paris"}}',
    "mistral-nemo": '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}]',
    "phi-4-mini": '<|tool_call|>{"name": "weather", "arguments": {"city": "Paris"}}<|/tool_call|>',
    "smollm2": '{"name": "weather", "arguments": {"city": "Paris"}}',
    "pythonic": '[weather(city="Paris")]',
    "xml-calls": "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
}
# How a family writes the same call with a number, without any argument, and several calls.
XML = "xml-calls"


@pytest.mark.parametrize("template", BY_FAMILY)
def test_each_familys_call(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    server.engine.says(BY_FAMILY[template])
    found = ChatCompletion.model_validate(server.ok("hi", tools=TOOLS), strict=True)
    (choice,) = found.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    assert '"description": "Tells it."' in server.engine.prompt
    if template == "mistral-nemo":
        assert len(call.id) == 9
        assert call.id.isalnum()
    # The round trip: the call and its result are history the template takes.
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    server.engine.says("It rains.")
    turns = ["hi", choice.message.model_dump(exclude_none=True), result]
    assert server.ok(*turns, tools=TOOLS)["choices"][0]["message"]["content"] == "It rains."
    assert "rain" in server.engine.prompt
    if template == XML:
        assert "<parameter=city>\nParis\n</parameter>" in server.engine.prompt
    else:
        assert '{"city": "Paris"}' in server.engine.prompt
        assert '\\"city' not in server.engine.prompt


def test_streamed_calls_have_openais_shape(qwen: ScriptedServer) -> None:
    qwen.engine.says(f'Let me look.\n{CALL}\n<tool_call>{{"name": "now", "arguments": {{}}}}</tool_call>')
    chunks = qwen.chunks("hi", tools=TOOLS)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me look."
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert set(calls[0]) == {"index", "id", "type", "function"}
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    first = [call for call in calls if call["index"] == 0]
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in first[1:])
    assert len(first) > 5
    assert "".join(call["function"]["arguments"] for call in first) == '{"city": "Paris"}'
    second = [call for call in calls if call["index"] == 1]
    assert (second[0]["function"]["name"], second[1]["function"]["arguments"][:1]) == ("now", "{")
    assert second[0]["id"] != calls[0]["id"]
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}


@pytest.mark.parametrize("bytes_per_step", [1, 3, 1000])
def test_whole_and_streamed_answers_agree(qwen: ScriptedServer, bytes_per_step: int) -> None:
    qwen.engine.says(f"A {CALL} B")
    qwen.engine.bytes_per_step = bytes_per_step
    message = qwen.ok("hi", tools=TOOLS)["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in qwen.chunks("hi", tools=TOOLS)]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"] == "AB"
    fragments = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert "".join(fragments) == message["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'


def test_only_one_call_if_they_may_not_be_parallel(qwen: ScriptedServer) -> None:
    qwen.engine.says(f"{CALL}\n{CALL}")
    assert len(qwen.ok("hi", tools=TOOLS)["choices"][0]["message"]["tool_calls"]) == 2
    assert len(qwen.ok("hi", tools=TOOLS, parallel_tool_calls=False)["choices"][0]["message"]["tool_calls"]) == 1
    chunks = qwen.chunks("hi", tools=TOOLS, parallel_tool_calls=False)
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert {call["index"] for call in calls} == {0}
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Paris"}'


def test_a_call_that_is_cut_short(qwen: ScriptedServer) -> None:
    qwen.engine.says(CALL)
    choice = qwen.ok("hi", tools=TOOLS, max_tokens=52)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"].startswith("{")


def test_no_tools_no_calls(qwen: ScriptedServer) -> None:
    qwen.engine.says(CALL)
    for fields in ({"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {}):
        choice = qwen.ok("hi", **fields)["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
        assert "tool_calls" not in choice["message"]
        assert "weather" not in qwen.engine.prompt


def accepts(server: ScriptedServer, text: str) -> bool:
    """Whether the last request's grammar takes all of `text` as a whole answer."""
    from llguidance import LLTokenizer

    grammar = server.engine.requests[-1].sampling.grammar
    assert grammar is not None
    assert grammar.kind == "lark"
    tokenizer = LLTokenizer((server.directory / "tokenizer" / "tokenizer.json").read_text(), eos_token=257)
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar.source))
    assert not matcher.is_error(), matcher.get_error()
    ids = server.engine.token_ids(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


NO_ARGUMENTS = [('{"city": "Paris"}', "{}"), ("<parameter=city>\nParis\n</parameter>\n", ""), ('city="Paris"', "")]


def now(text: str) -> str:
    """The call of `now`, which takes nothing, in the form of a call of `weather`."""
    for some, none in NO_ARGUMENTS:
        text = text.replace(some, none)
    return text.replace("weather", "now")


def with_city(text: str, city: str) -> str:
    return text.replace("\nParis\n", f"\n{city}\n") if "<parameter" in text else text.replace('"Paris"', city)


@pytest.mark.parametrize("template", [template for template in BY_FAMILY if template != "qwen3"])
def test_forced_calls_are_held_to_the_familys_form(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    text, other = BY_FAMILY[template], now(BY_FAMILY[template])
    server.engine.says(text)
    for choice in ("weather", {"type": "function", "function": {"name": "weather"}}):
        found = server.ok("hi", tools=TOOLS, tool_choice=choice)["choices"][0]
        assert found["finish_reason"] == "tool_calls"
        assert found["message"]["tool_calls"][0]["function"]["name"] == "weather"
        assert accepts(server, text)
        assert not accepts(server, other)
        assert template == XML or not accepts(server, with_city(text, "5")), "XML has no quotes: 5 is a city there"
        assert not accepts(server, "I would rather talk.")
    server.ok("hi", tools=TOOLS, tool_choice="required")
    assert accepts(server, text)
    assert accepts(server, other)
    assert not accepts(server, text.replace("weather", "now"))
    assert not accepts(server, text.replace("weather", "other"))
    server.ok(
        "hi", tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NOW]}}
    )
    assert accepts(server, other)
    assert not accepts(server, text)
    assert "Tells it." not in server.engine.prompt
    server.ok(
        "hi", tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW] * 2}}
    )
    assert server.engine.prompt.count('"now"') <= 1, "named twice, offered once"


STRICT = {
    "type": "function",
    "function": {
        "name": "book",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "unit": {"enum": ["metric", "imperial"]},
                "n": {"type": "integer"},
                "to": {"type": "string"},
            },
            "required": ["unit", "n"],
            "additionalProperties": False,
        },
    },
}
LOOSE = {"type": "function", "function": {"name": "note", "parameters": {"type": "object"}}}
BOOKED = {
    "xml-calls": "<tool_call>\n<function=book>\n<parameter=unit>\nmetric\n</parameter>\n"
    "<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>",
    "pythonic": '[book(unit="metric", n=3)]',
    "mistral-nemo": '[TOOL_CALLS][{"name": "book", "arguments": {"unit": "metric", "n": 3}}]',
} | {
    template: BY_FAMILY[template].replace("weather", "book").replace('{"city": "Paris"}', '{"unit": "metric", "n": 3}')
    for template in ("qwen2.5", "qwen3", "llama-3.3", "phi-4-mini", "smollm2")
}


@pytest.mark.parametrize("template", BY_FAMILY)
def test_strict_functions_are_held_to_their_schema_when_the_model_calls_freely(
    server_for: Callable[[str], ScriptedServer], template: str
) -> None:
    server = server_for(template)
    text = BOOKED[template]
    server.engine.says(text)
    found = server.ok("hi", tools=[STRICT, LOOSE])["choices"][0]["message"]["tool_calls"][0]["function"]
    assert (found["name"], json.loads(found["arguments"])) == ("book", {"unit": "metric", "n": 3})
    assert accepts(server, text)
    for free in ("", "I would rather talk.\nAbout [things] and {more}.", "[1] says", '{"answer": 1}'):
        assert accepts(server, free), free
    for broken in (("metric", "metrik"), ("3", "3.5"), ("book", "burn")):
        assert not accepts(server, text.replace(*broken)), broken
    loose = text.replace("book", "note").replace("3", '"x"')
    assert accepts(server, loose), "a function that is not strict takes any arguments"
    server.ok("hi", tools=[LOOSE])
    assert server.engine.requests[-1].sampling.grammar is None


@pytest.mark.parametrize("template", ["qwen2.5", "xml-calls", "phi-4-mini"])
def test_strict_calls_stand_within_text(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    call = BOOKED[template]
    server.engine.says(f"I look.\n{call}\n{call}")
    message = server.ok("hi", tools=[STRICT])["choices"][0]["message"]
    assert (message["content"], len(message["tool_calls"])) == ("I look.", 2)
    assert accepts(server, f"I look.\n{call}\n{call}\nDone.")
    assert not accepts(server, f"{call}\n{call.replace('metric', 'metrik')}")
    server.ok("hi", tools=[STRICT], parallel_tool_calls=False)
    assert accepts(server, f"I look.\n{call}")


def test_thoughts_come_before_a_strict_call(thinker: ScriptedServer) -> None:
    thinker.engine.says(BOOKED["qwen3"])
    message = thinker.ok("hi", tools=[STRICT])["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    assert message["tool_calls"][0]["function"]["name"] == "book"


def test_what_xml_cannot_be_held_to_is_refused_by_name(server_for: Callable[[str], ScriptedServer]) -> None:
    server = server_for("xml-calls")
    parameters = {"type": "object", "properties": {"d": {"type": "string", "format": "date"}}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": parameters}}
    answer = server.chat("hi", tools=[tool])
    assert (answer.status, answer.json["error"]["param"]) == (400, "tools[0].function.parameters")
    assert "`format` of f.d cannot be enforced" in answer.json["error"]["message"]


def test_a_forced_call_has_no_arguments_but_those_that_are_named(qwen: ScriptedServer) -> None:
    more = CALL.replace('"Paris"', '"Paris", "zip": 75001')
    qwen.ok("hi", tools=TOOLS, tool_choice="required")
    assert accepts(qwen, CALL)
    assert not accepts(qwen, more)
    function = WEATHER["function"] | {"parameters": PARAMETERS | {"additionalProperties": True}}
    qwen.ok("hi", tools=[WEATHER | {"function": function}], tool_choice="required")
    assert accepts(qwen, more)


def test_parallel_forced_calls(qwen: ScriptedServer) -> None:
    qwen.ok("hi", tools=TOOLS, tool_choice="required")
    assert accepts(qwen, f"{CALL}\n{CALL}")
    qwen.ok("hi", tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert accepts(qwen, CALL)
    assert not accepts(qwen, f"{CALL}\n{CALL}")


def test_a_free_choice_with_a_format_is_one_or_the_other(qwen: ScriptedServer) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    qwen.engine.says('{"a": 1}')
    assert qwen.ok("hi", tools=TOOLS, response_format=response_format)["choices"][0]["message"]["content"] == '{"a": 1}'
    assert accepts(qwen, '{"a": 1}')
    assert accepts(qwen, CALL)
    assert not accepts(qwen, '{"a": 2}')
    qwen.engine.says("a")
    qwen.ok("hi", tools=TOOLS, response_format={"type": "regex", "value": "a"})
    assert accepts(qwen, "a")
    assert accepts(qwen, CALL)
    assert not accepts(qwen, "b")


def test_a_model_without_a_place_for_tools(plain: ScriptedServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    plain.engine.says("ok")
    plain.ok(
        {"role": "system", "content": "Be kind."},
        "hi",
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c1", "content": "more"},
        tools=TOOLS,
    )
    prompt = plain.engine.prompt
    assert prompt.startswith("<|im_start|>system\nBe kind.\n\nYou can call functions.")
    assert '\n{"name": "weather", "description": "Tells it.", "parameters": ' in prompt
    assert prompt.count('{"name": "weather", "arguments": {"city": "Rome"}}') == 2
    assert "<|im_start|>user\nResult of weather:\nsun\nResult of weather:\nmore<|im_end|>" in prompt
    plain.ok("hi", tools=TOOLS, tool_prompt="Use these.")
    assert plain.engine.prompt.startswith('<|im_start|>system\nUse these.\n{"name": "weather"')


def test_tgis_tool_prompt(qwen: ScriptedServer) -> None:
    qwen.ok("hi", tools=TOOLS, tool_prompt="Use these.")
    assert "hi\n---\nUse these.<|im_end|>" in qwen.engine.prompt


def test_text_that_is_no_call_is_content(qwen: ScriptedServer) -> None:
    qwen.engine.says('<tool_call>{"name": "rm", "arguments": {}}</tool_call>')
    choice = qwen.ok("hi", tools=TOOLS)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tool_choice": "required"}, "tool_choice", "needs `tools`"),
    ({"tools": TOOLS, "tool_choice": "other"}, "tool_choice", "one of weather, now"),
    ({"tools": TOOLS, "tool_choice": {"type": "custom"}}, "tool_choice.type", "name a function"),
    ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0].type", '"function"'),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].function.name", "different"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]},
        "tools[0].function.parameters",
        "schema",
    ),
    ({"tools": [NOW | {"function": {"name": f"f{i}"}} for i in range(129)]}, "tools", "at most 128"),
    (
        {
            "tools": TOOLS,
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW] * 129}},
        },
        "tool_choice.allowed_tools.tools",
        "1 to 128",
    ),
]


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals_name_the_field(qwen: ScriptedServer, fields: dict[str, Any], param: str, words: str) -> None:
    answer = qwen.chat("hi", **fields)
    assert answer.status == 400, answer.body
    assert answer.json["error"]["param"] == param
    assert words in answer.json["error"]["message"]


def test_control_characters_in_arguments_are_escaped(server_for: Callable[[str], ScriptedServer]) -> None:
    for template in ("qwen2.5", "llama-3.3", "mistral-nemo", "phi-4-mini", "smollm2"):
        server = server_for(template)
        server.engine.says(BY_FAMILY[template].replace("Paris", "Par\nis\t\x01"))
        (call,) = server.ok("hi", tools=TOOLS)["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Par\nis\t\x01"}
        deltas = [chunk["choices"][0]["delta"] for chunk in server.chunks("hi", tools=TOOLS)]
        fragments = [call["function"].get("arguments", "") for delta in deltas for call in delta.get("tool_calls", ())]
        assert json.loads("".join(fragments)) == {"city": "Par\nis\t\x01"}


@pytest.mark.parametrize("template", [template for template in BY_FAMILY if template != "qwen3"])
def test_a_forced_call_that_is_cut_leaves_no_text(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    text = BY_FAMILY[template]
    server.engine.says(text)
    for length in range(1, len(server.engine.token_ids(text.partition("weather")[0])) + 3):
        fields = {"tools": TOOLS, "tool_choice": "required", "max_tokens": length}
        found = server.ok("hi", **fields)["choices"][0]
        assert found["message"]["content"] is None
        assert "tool_calls" not in found["message"]
        assert found["finish_reason"] == "length"
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in server.chunks("hi", **fields))


def test_a_second_call_that_is_cut_leaves_no_text(qwen: ScriptedServer) -> None:
    qwen.engine.says(f'{CALL}\n<tool_call>\n{{"na')
    found = qwen.ok("hi", tools=TOOLS, max_tokens=len(CALL) + 17)["choices"][0]
    assert found["finish_reason"] == "length"
    assert found["message"]["content"] is None
    assert len(found["message"]["tool_calls"]) == 1
    qwen.engine.says(CALL)
    assert qwen.ok("hi", tools=TOOLS, max_tokens=len(CALL) - 4)["choices"][0]["message"]["content"] is None
    qwen.engine.says("I look: <tool")
    assert qwen.ok("hi", tools=TOOLS, max_tokens=13)["choices"][0]["message"]["content"] == "I look: <tool"
