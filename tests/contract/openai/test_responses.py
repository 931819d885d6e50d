"""POST /v1/responses: items in, items and events out, and what is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from container.api.openai.response_format import enforceable
from container.api.responses.request import ResponseRequest
from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_tools import CALL

PATH = "/v1/responses"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Tells it.", "parameters": PARAMETERS}
NOW = {"type": "function", "name": "now"}
ANSWER = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}"
DEAF = {"type": "web_search", "search_context_size": "low"}


def ok(server: ScriptedServer, given: Any = "hi", **fields: Any) -> Any:
    answer = server.request("POST", PATH, {"input": given, **fields})
    assert answer.status == 200, answer.body
    Response.model_validate(answer.json)
    return answer.json


def events(server: ScriptedServer, given: Any = "hi", path: str = PATH, **fields: Any) -> list[Any]:
    """The events of a stream: numbered from 0, each named by its type, without comments and without [DONE]."""
    answer = server.request("POST", path, {"input": given, "stream": True, **fields})
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    found = []
    for frame in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def kinds(found: list[Any]) -> list[str]:
    """The types in order, deltas of one kind once."""
    types = [event["type"].removeprefix("response.") for event in found]
    return [kind for i, kind in enumerate(types) if not kind.endswith("delta") or kind != types[i - 1]]


def content_of(response: Any) -> list[Any]:
    """The output without ids."""
    return [{key: value for key, value in item.items() if key not in {"id", "call_id"}} for item in response["output"]]


def test_an_answer_with_a_thought_text_and_a_call(thinker: ScriptedServer) -> None:
    thinker.engine.says(ANSWER)
    found = ok(thinker, tools=[WEATHER], model="m", metadata={"a": "b"}, user="u")
    thought, message, call = found["output"]
    assert (thought["summary"], thought["content"]) == ([], [{"type": "reasoning_text", "text": "Hm."}])
    assert message["content"] == [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Paris"})
    assert call["id"] != call["call_id"]
    assert [item["id"].split("_")[0] for item in found["output"]] == ["rs", "msg", "fc"]
    assert (found["status"], found["model"], found["metadata"], found["user"]) == ("completed", "m", {"a": "b"}, "u")
    assert (found["tools"], found["tool_choice"], found["store"]) == ([WEATHER], "auto", False)
    usage = found["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 3, "cache_write_tokens": 0}
    assert usage["output_tokens_details"]["reasoning_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.parametrize("size", [1, 3, 200])
def test_all_events_in_order(thinker: ScriptedServer, size: int) -> None:
    thinker.engine.says(ANSWER)
    thinker.engine.bytes_per_step = size
    found = events(thinker, tools=[WEATHER])
    assert kinds(found) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    thinker.engine.says(ANSWER)
    assert content_of(found[-1]["response"]) == content_of(ok(thinker, tools=[WEATHER]))
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == found[-1]["response"]["output"]
    assert [event["output_index"] for event in found if "item" in event] == [0, 0, 1, 1, 2, 2]
    for kind, index, key in (("output_text", 1, "text"), ("function_call_arguments", 2, "arguments")):
        pieces = [event["delta"] for event in found if event["type"] == f"response.{kind}.delta"]
        (whole,) = (event for event in found if event["type"] == f"response.{kind}.done")
        assert "".join(pieces) == whole[key]
        assert (whole["output_index"], whole["item_id"]) == (index, done[index]["id"])


def test_a_cut_answer_is_incomplete(qwen: ScriptedServer) -> None:
    qwen.engine.says("abcdef")
    found = events(qwen, max_output_tokens=3)
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found[-1]["response"]["output"][0]["status"] == "incomplete"
    assert ok(qwen, max_output_tokens=3)["output"][0]["content"][0]["text"] == "abc"
    qwen.engine.says(CALL)
    assert ok(qwen, max_output_tokens=50, tools=[WEATHER])["output"][0]["status"] == "incomplete"


def test_a_limit_beyond_the_context_is_cut(qwen: ScriptedServer) -> None:
    qwen.engine.says("a")
    assert ok(qwen, max_output_tokens=10**6)["max_output_tokens"] == 10**6
    (request,) = qwen.engine.requests
    assert request.sampling.max_tokens + len(request.prompt_token_ids) == 100_000


def test_a_stream_that_fails_ends_with_the_failure(qwen: ScriptedServer) -> None:
    qwen.engine.says("abcdef")
    qwen.engine.fails_at = 3
    last = events(qwen)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "the engine gave up"}
    assert last["response"]["output"][0]["content"][0]["text"] == "abc"
    qwen.engine.fails_at = 0
    answer = qwen.request("POST", PATH, {"input": "hi", "stream": True})
    assert (answer.status, answer.json["error"]["code"]) == (500, "generation_failed")


def test_a_probe_without_a_question(qwen: ScriptedServer) -> None:
    qwen.engine.says("abc")
    for empty in ("", []):
        assert ok(qwen, empty, max_output_tokens=1)["status"] == "incomplete"
    qwen.engine.says("")
    assert ok(qwen)["output"][0]["content"][0]["text"] == ""
    assert kinds(events(qwen))[2:5] == ["output_item.added", "content_part.added", "output_text.done"]


CODEX = [
    {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "Be Codex."}]},
    {"role": "developer", "content": "Use tools.", "id": "msg_2"},
    {"role": "user", "content": [{"type": "input_text", "text": "The files:"}], "phase": None},
    {"role": "user", "content": "What is the weather?"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {
        "type": "message",
        "id": "msg_3",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
    },
    {"type": "function_call", "id": "fc_1", "call_id": "call00001", "name": "weather", "arguments": '{"city": "Rome"}'},
    {
        "type": "function_call",
        "call_id": "call00002",
        "name": "weather",
        "arguments": '{"city": "Oslo"}',
        "status": None,
    },
    {"type": "function_call_output", "call_id": "call00001", "output": "rain"},
    {"type": "function_call_output", "call_id": "call00002", "output": [{"type": "input_text", "text": "snow"}]},
]


def test_the_items_of_an_agent_are_one_conversation(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    ok(qwen, CODEX, tools=[WEATHER, DEAF])
    prompt = qwen.engine.prompt
    assert prompt.count("<|im_start|>system") == 1
    assert "Be Codex.\n\nUse tools." in prompt
    assert "<|im_start|>user\nThe files:\n\nWhat is the weather?<|im_end|>" in prompt
    turns = prompt.split("<|im_start|>assistant\n")
    assert len(turns) == 3, "the two calls are one turn"
    assert turns[1].startswith("I look.")
    assert turns[1].index("Rome") < turns[1].index("Oslo") < turns[1].index("rain") < turns[1].index("snow")
    assert "web_search" not in prompt


def test_instructions_stand_before_the_items(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    found = ok(qwen, CODEX[:3], instructions="First.")
    assert "<|im_start|>system\nFirst.\n\nBe Codex.\n\nUse tools.<|im_end|>" in qwen.engine.prompt
    assert found["instructions"] == "First."


def test_a_thought_comes_back_by_any_account_of_it(thinker: ScriptedServer) -> None:
    thinker.engine.says(ANSWER)
    found = ok(thinker, tools=[WEATHER], include=["reasoning.encrypted_content"])
    thought, _, call = found["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    # Codex sends no `content` back.
    slim = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}
    summed = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "gAAA"}
    thinker.engine.says("Rain.")
    for item in (thought, slim, summed):
        ok(thinker, [{"role": "user", "content": "hi"}, item, call, result], tools=[WEATHER])
        assert "<think>\nHm.\n</think>" in thinker.engine.prompt, item


def test_thinking_can_be_turned_off(thinker: ScriptedServer) -> None:
    thinker.engine.says("ok")
    ok(thinker, reasoning={"effort": "none", "summary": "auto"})
    assert thinker.engine.prompt.endswith("<think>\n\n</think>\n\n")


def test_functions_inside_a_namespace_are_offered(qwen: ScriptedServer) -> None:
    inner = [{**WEATHER, "description": "Inner."}, NOW, {"type": "custom", "name": "patch"}]
    tools = [{"type": "namespace", "name": "mcp__a", "description": "d", "tools": inner}, WEATHER]
    qwen.engine.says('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    (call,) = ok(qwen, tools=tools)["output"]
    assert (call["namespace"], call["name"]) == ("mcp__a", "now")
    assert '"mcp__a.weather"' in qwen.engine.prompt
    assert "patch" not in qwen.engine.prompt
    qwen.engine.says('<tool_call>\n{"name": "mcp__a.weather", "arguments": {}}\n</tool_call>')
    (call,) = ok(qwen, tools=tools)["output"]
    assert (call["namespace"], call["name"]) == ("mcp__a", "weather")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    qwen.engine.says("ok")
    ok(qwen, [{"role": "user", "content": "hi"}, call, result], tools=tools)
    assert '{"name": "mcp__a.weather", "arguments": {}}' in qwen.engine.prompt


def test_a_name_in_two_namespaces_always_fits(qwen: ScriptedServer) -> None:
    long = {"type": "function", "name": "f" * 128}
    tools = [long] + [
        {"type": "namespace", "name": name, "description": "d", "tools": [long]} for name in ("my server", "n" * 200)
    ]
    qwen.engine.says("ok")
    ok(qwen, tools=tools)
    first, *others = dict.fromkeys(re.findall(r'"name": "([A-Za-z0-9_.-]+)"', qwen.engine.prompt))
    assert first == "f" * 128
    assert [len(name) for name in others] == [128, 128]
    for name, namespace in zip(others, ("my server", "n" * 200), strict=True):
        qwen.engine.says(f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>')
        (call,) = ok(qwen, tools=tools)["output"]
        assert (call["namespace"], call["name"]) == (namespace, "f" * 128)


def test_what_the_model_must_call(qwen: ScriptedServer) -> None:
    qwen.engine.says(CALL)
    choices: list[Any] = [
        "required",
        {"type": "function", "name": "weather"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}, DEAF]},
    ]
    for choice in choices:
        found = ok(qwen, tools=[WEATHER, DEAF], tool_choice=choice, parallel_tool_calls=False)
        assert found["tool_choice"] == choice
        grammar = qwen.engine.requests[-1].sampling.grammar
        assert grammar is not None
        assert "city" in grammar.source, "a forced call fits its schema without `strict` too"
    twice = [{"type": "function", "name": "weather"}] * 2
    ok(qwen, tools=[WEATHER], tool_choice={"type": "allowed_tools", "mode": "auto", "tools": twice})
    assert qwen.engine.prompt.count('"weather"') == 1, "named twice, offered once"
    ok(qwen, tools=[WEATHER], tool_choice="none")
    assert "weather" not in qwen.engine.prompt
    ok(qwen, tools=[{**WEATHER, "strict": True}])
    assert qwen.engine.requests[-1].sampling.grammar is not None
    ok(qwen, tools=[WEATHER])
    assert qwen.engine.requests[-1].sampling.grammar is None


def test_the_text_has_the_form_that_is_asked_for(qwen: ScriptedServer) -> None:
    qwen.engine.says('{"city": "Rome"}')
    wanted = {"type": "json_schema", "name": "n", "schema": PARAMETERS, "strict": True}
    found = ok(qwen, text={"format": wanted, "verbosity": "low"})
    assert found["text"] == {"format": wanted, "verbosity": "low"}
    grammar = qwen.engine.requests[-1].sampling.grammar
    assert grammar is not None
    assert json.loads(grammar.source) == enforceable(PARAMETERS)
    ok(qwen, text={"format": {"type": "json_object"}})
    assert qwen.engine.requests[-1].sampling.grammar is not None
    ok(qwen, text={"format": {"type": "text"}})
    assert qwen.engine.requests[-1].sampling.grammar is None


def test_log_probabilities_are_of_the_text(thinker: ScriptedServer) -> None:
    for size in (1, 5, 200):
        thinker.engine.says(f"<think>\nHm.\n</think>I look.\n{CALL}")
        thinker.engine.bytes_per_step = size
        fields: dict[str, Any] = {"tools": [WEATHER], "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
        found = events(thinker, **fields)
        deltas = [
            entry for event in found if event["type"].endswith("text.delta") for entry in event.get("logprobs", ())
        ]
        (message,) = (item for item in found[-1]["response"]["output"] if item["type"] == "message")
        (part,) = message["content"]
        assert part["logprobs"] == deltas
        assert len(part["logprobs"][0]["top_logprobs"]) == 2
        assert bytes(byte for entry in deltas for byte in entry["bytes"]) == b"I look."
    assert ok(thinker)["output"][0]["content"][0].get("logprobs", []) == []


def many(name: str, num_functions: int) -> dict[str, Any]:
    """A namespace of so many functions."""
    inner = [{"type": "function", "name": f"{name}{i}"} for i in range(num_functions)]
    return {"type": "namespace", "name": name, "tools": inner}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": {"id": "c"}}, "conversation"),
    ({"background": True}, "background"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"truncation": "middle"}, "truncation"),
    ({"input": [{"id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": "x", "contents": "y"}]}, "input[0].contents"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
        "input[0].output[0].type",
    ),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "f" * 129}]}, "tools[0].name"),
    ({"tools": [DEAF, WEATHER, WEATHER]}, "tools[2].name"),
    ({"tools": [{"type": "namespace", "name": "a", "tools": [WEATHER, WEATHER]}]}, "tools[0].tools[1].name"),
    ({"tools": [DEAF, {"type": "function", "name": "f", "parameters": []}]}, "tools[1].parameters"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].function"),
    (
        {"tools": [{**WEATHER, "strict": True, "parameters": {"not": {}}}]},
        "tools[0].parameters",
    ),
    ({"tools": [many("a", 64), many("b", 65)]}, "tools"),
    ({"tools": [many("a", 129)]}, "tools[0].tools"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [DEAF] * 129}},
        "tool_choice.tools",
    ),
    ({"tools": [DEAF], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [DEAF], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    (
        {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function"}]}},
        "tool_choice.tools[0].name",
    ),
    ({"text": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "text.format.schema"),
    ({"text": {"format": {"type": "regex"}}}, "text.format.type"),
    ({"include": ["x"]}, "include[0]"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": "b" * 513}}, "metadata"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.messages"),
    ({"temprature": 1}, "temprature"),
    ({"messages": []}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[param for _, param in REFUSED])
def test_what_is_refused_is_named(qwen: ScriptedServer, fields: dict[str, Any], param: str) -> None:
    answer = qwen.request("POST", PATH, {"input": "hi", **fields})
    assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body
    assert param.rsplit(".", 1)[-1] in answer.json["error"]["message"]
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_namespaces_inside_each_other_are_refused_at_any_depth(qwen: ScriptedServer) -> None:
    tool: dict[str, Any] = WEATHER
    for depth in range(1, 300):
        tool = {"type": "namespace", "name": "n", "tools": [tool]}
        if depth in {2, 299}:
            answer = qwen.request("POST", PATH, {"input": "hi", "tools": [tool]})
            assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("field", [field.encode_name for field in msgspec.structs.fields(ResponseRequest)])
def test_a_wrong_type_is_named(qwen: ScriptedServer, field: str) -> None:
    qwen.engine.says("ok")
    for wrong in ({"\x00": [{}]}, [[{}]], 1e300):
        answer = qwen.request("POST", PATH, {"input": "hi", field: wrong})
        assert answer.status == 400, (wrong, answer.body)
        assert str(answer.json["error"]["param"]).startswith(field), answer.body


NEUTRAL: dict[str, Any] = {
    **dict.fromkeys(("previous_response_id", "conversation", "prompt", "background", "text", "tools", "tool_choice")),
    **dict.fromkeys(("reasoning", "include", "instructions", "max_output_tokens", "metadata", "stream", "user")),
    "store": True,
    "truncation": "disabled",
    "client_metadata": {"x": "y"},
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "service_tier": "auto",
    "max_tool_calls": 3,
}


def test_what_asks_for_nothing_is_taken(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    found = ok(qwen, **NEUTRAL)
    assert (found["store"], found["previous_response_id"], found["prompt_cache_key"]) == (False, None, "k")
    assert found["safety_identifier"] == "s"
    # A prompt that is too long is refused all the same.
    assert ok(qwen, truncation="auto")["truncation"] == "disabled"
    assert qwen.request("POST", PATH, {"input": "x" * 100_001, "truncation": "auto"}).status == 400


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_response_is_stored(qwen: ScriptedServer, method: str) -> None:
    answer = qwen.request(method, f"{PATH}/resp_1")
    assert (answer.status, answer.json["error"]["type"]) == (404, "not_found_error")
    assert "stores none" in answer.json["error"]["message"]


def test_invocations_tells_it_by_its_input(qwen: ScriptedServer) -> None:
    qwen.engine.says("abc")
    found = events(qwen, path="/invocations")
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == "abc"
    answer = qwen.request("POST", "/invocations", {"input": "hi", "background": True})
    assert (answer.status, answer.json["error"]["param"]) == (400, "background")
    named = {"X_Amzn_SageMaker_Custom_Attributes": "route=/v1/responses"}
    assert qwen.request("POST", "/invocations", {"input": "hi"}, **named).json["object"] == "response"


@pytest.mark.parametrize("template", ["mistral-nemo", "llama-3.3", "smollm2", "harmony", "phi-4-mini"])
def test_an_agents_items_in_other_templates(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    """Templates that want turns in alternation or short ids, take no tools, or know `developer`."""
    server = server_for(template)
    server.engine.says("ok")
    ok(server, CODEX, tools=[WEATHER, DEAF])
    # Mistral's template shows the system message beside a last question only.
    told = () if template == "mistral-nemo" else ("Be Codex.", "Use tools.")
    for text in (*told, "The files:", "What is the weather?", "Rome", "Oslo", "rain", "snow"):
        assert text in server.engine.prompt, text


class Capital(BaseModel):
    city: str


@pytest.fixture
def client(qwen: ScriptedServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{qwen.url}/v1", api_key="-", max_retries=0)


def test_openai_creates_and_streams(thinker: ScriptedServer) -> None:
    client = openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="-", max_retries=0)
    thinker.engine.says("<think>\nHm.\n</think>\n\nHello.")
    assert client.responses.create(model="m", input="hi").output_text == "Hello."
    with client.responses.stream(model="m", input="hi") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(pieces) == "Hello."
    last = list(client.responses.create(model="m", input="hi", stream=True))[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="m", input="hi", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


def test_openai_parses(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    qwen.engine.says('{"city": "Rome"}')
    assert client.responses.parse(model="m", input="hi", text_format=Capital).output_parsed == Capital(city="Rome")
    with client.responses.stream(model="m", input="hi", text_format=Capital) as stream:
        assert stream.get_final_response().output_parsed == Capital(city="Rome")


def test_openai_runs_tools(qwen: ScriptedServer, client: openai.OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(Capital, name="weather")["function"] | {"type": "function"}
    qwen.engine.says(CALL)
    history: list[Any] = [{"role": "user", "content": "hi"}]
    with client.responses.stream(model="m", input=history, tools=[tool]) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                assert event.snapshot.endswith(event.delta)
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    # As users do: the item goes back as it was dumped, with the SDK's own names of fields.
    history += [
        call.model_dump(exclude={"parsed_arguments"}),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    qwen.engine.says("Rain.")
    assert client.responses.create(model="m", input=history, tools=[tool]).output_text == "Rain."
    assert "<tool_response>\nrain\n</tool_response>" in qwen.engine.prompt
