"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's blocks, events, errors and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from flask import Flask

from container.api.anthropic.error_response import error_response
from container.api.anthropic.request import MessagesRequest
from container.api.anthropic.shape import is_anthropics
from container.errors import ContextLengthExceeded, NotReady, OutOfMemory, Overloaded, ServiceError
from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_tools import CALL

PATH = "/v1/messages"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tells it.", "input_schema": SCHEMA}
SERVERS = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
ANSWER = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}"
USER = {"role": "user", "content": "hi"}


def body(*turns: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "claude-opus-9", "max_tokens": 32_000, "messages": list(turns) or [USER], **fields}


def ok(server: ScriptedServer, *turns: Any, **fields: Any) -> Any:
    answer = server.request("POST", f"{PATH}?beta=true", body(*turns, **fields), anthropic_version="2023-06-01")
    assert answer.status == 200, answer.body
    return answer.json


def events(server: ScriptedServer, *turns: Any, path: str = PATH, **fields: Any) -> list[Any]:
    answer = server.request("POST", path, body(*turns, stream=True, **fields))
    assert answer.status == 200, answer.body
    found = []
    for frame in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def kinds(found: list[Any]) -> list[str]:
    """The types in order, with that of the delta; deltas of one kind once."""
    names = [event["delta"].get("type", event["type"]) if "delta" in event else event["type"] for event in found]
    return [name for i, name in enumerate(names) if not name.endswith("_delta") or name != names[i - 1]]


def test_an_answer_with_a_thought_text_and_a_call(thinker: ScriptedServer) -> None:
    thinker.engine.says(ANSWER)
    found = ok(thinker, tools=[WEATHER, SERVERS])
    thought, text, call = found["content"]
    assert (thought["type"], thought["thinking"], bool(thought["signature"])) == ("thinking", "Hm.", True)
    assert text == {"type": "text", "text": "I look."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Paris"})
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", "claude-opus-9")
    assert (found["stop_reason"], found["stop_sequence"]) == ("tool_use", None)
    usage = found["usage"]
    assert usage["input_tokens"] + 3 == len(thinker.engine.requests[-1].prompt_token_ids)
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (3, 0)
    assert usage["output_tokens_details"]["thinking_tokens"] > 0
    assert "web_search" not in thinker.engine.prompt
    assert '"description": "Tells it."' in thinker.engine.prompt


@pytest.mark.parametrize("size", [1, 3, 200])
def test_all_events_in_order(thinker: ScriptedServer, size: int) -> None:
    thinker.engine.says(ANSWER)
    thinker.engine.bytes_per_step = size
    found = events(thinker, tools=[WEATHER])
    assert kinds(found) == [
        *("message_start", "content_block_start", "ping", "thinking_delta", "signature_delta", "content_block_stop"),
        *("content_block_start", "text_delta", "content_block_stop"),
        *("content_block_start", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    start = found[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["cache_read_input_tokens"]) == ([], None, 3)
    assert [event["index"] for event in found if event["type"] == "content_block_stop"] == [0, 1, 2]
    joined = "".join(event["delta"].get("partial_json", "") for event in found if "delta" in event)
    assert json.loads(joined) == {"city": "Paris"}
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    thinker.engine.says(ANSWER)
    assert found[-2]["usage"] == ok(thinker, tools=[WEATHER])["usage"]


def test_why_an_answer_ends(qwen: ScriptedServer) -> None:
    qwen.engine.says("abcdef")
    found = ok(qwen)
    assert (found["content"], found["stop_reason"]) == ([{"type": "text", "text": "abcdef"}], "end_turn")
    found = ok(qwen, stop_sequences=["x", "de"])
    assert (found["content"][0]["text"], found["stop_reason"], found["stop_sequence"]) == ("abc", "stop_sequence", "de")
    assert events(qwen, stop_sequences=["de"])[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "de"}
    assert ok(qwen, max_tokens=2)["stop_reason"] == "max_tokens"
    qwen.engine.says("")
    assert ok(qwen)["content"] == [{"type": "text", "text": ""}]
    qwen.engine.says(CALL)
    cut = ok(qwen, max_tokens=55, tools=[WEATHER])
    assert (cut["stop_reason"], list(cut["content"][0]["input"])) == ("max_tokens", ["INVALID_JSON"])


def test_a_limit_beyond_the_context_is_cut(qwen: ScriptedServer) -> None:
    qwen.engine.says("a")
    ok(qwen, max_tokens=10**6)
    (request,) = qwen.engine.requests
    assert request.sampling.max_tokens + len(request.prompt_token_ids) == 100_000


CLAUDE_CODE: dict[str, Any] = {
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1f3;"},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be short."},
    ],
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "metadata": {"user_id": "u"},
    "tools": [],
    "some_new_beta_field": {"x": 1},
}
TURNS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
    {"role": "user", "content": "Three."},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "zzz"},
            {"type": "text", "text": "I look.", "citations": None},
            {"type": "tool_use", "id": "call00001", "name": "weather", "input": {"city": "Rome"}, "caller": {}},
            {"type": "tool_use", "id": "call00002", "name": "weather", "input": {"city": "Oslo"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
            {"type": "tool_result", "tool_use_id": "call00001", "content": [{"type": "text", "text": "rain"}]},
            {"type": "tool_result", "tool_use_id": "call00002", "content": "no such place", "is_error": True},
        ],
    },
]


def test_the_turns_of_an_agent_are_one_conversation(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    ok(qwen, *TURNS, **CLAUDE_CODE | {"tools": [WEATHER]})
    prompt = qwen.engine.prompt
    assert "billing" not in prompt
    assert "You are Claude Code.\n\nBe short." in prompt
    assert "<|im_start|>user\nOne.\n\nTwo.\n\nThree.<|im_end|>" in prompt
    turn = prompt.split("<|im_start|>assistant\n")[1]
    order = ["I look.", "Rome", "Oslo", "rain", "Error: no such place", "<|im_start|>user\nAnd?"]
    assert [turn.index(text) for text in order] == sorted(turn.index(text) for text in order)
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in turn


def test_only_the_billing_line_is_left_out(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    ok(qwen, system="x-anthropic-billing-header: cch=1f3;\nYou are Claude Code.")
    assert "<|im_start|>system\nYou are Claude Code.<|im_end|>" in qwen.engine.prompt


def test_a_tool_with_a_schema_is_offered_whatever_its_type(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    for kind in ("custom", "function", None, "newest_20270101"):
        ok(qwen, tools=[SERVERS, {**WEATHER, "type": kind}])
        assert "weather" in qwen.engine.prompt
        assert "web_search" not in qwen.engine.prompt


def test_the_first_request_of_claude_code(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    assert ok(qwen, **CLAUDE_CODE)["content"][0]["text"] == "ok"
    assert qwen.request("HEAD", "/").status == 200


@pytest.mark.parametrize("template", ["mistral-nemo", "llama-3.3", "smollm2", "harmony", "phi-4-mini", "qwen3"])
def test_an_agents_turns_in_other_templates(server_for: Callable[[str], ScriptedServer], template: str) -> None:
    server = server_for(template)
    server.engine.says("ok")
    # Mistral's template takes no question directly after a result.
    turns = [*TURNS[:3], {**TURNS[3], "content": TURNS[3]["content"][1:]}]
    ok(server, *turns, tools=[WEATHER])
    for text in ("One.", "Three.", "Rome", "Oslo", "rain", "no such place"):
        assert text in server.engine.prompt, text


def test_thinking_on_off_and_left_out(thinker: ScriptedServer) -> None:
    thinker.engine.says("ok")
    ok(thinker, thinking={"type": "disabled"})
    assert thinker.engine.prompt.endswith("<think>\n\n</think>\n\n")
    for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}, None):
        ok(thinker, thinking=thinking)
        assert thinker.engine.prompt.endswith("<|im_start|>assistant\n"), thinking
    thinker.engine.says(ANSWER)
    hidden = {"type": "adaptive", "display": "omitted"}
    found = ok(thinker, thinking=hidden, tools=[WEATHER])
    assert found["content"][0]["thinking"] == ""
    deltas = [
        event["delta"]["type"]
        for event in events(thinker, thinking=hidden, tools=[WEATHER])
        if "index" in event and "delta" in event
    ]
    assert deltas[0] == "signature_delta"
    # The thought comes back inside the signature.
    result = {"type": "tool_result", "tool_use_id": found["content"][2]["id"], "content": "rain"}
    thinker.engine.says("Rain.")
    ok(thinker, USER, {"role": "assistant", "content": found["content"]}, {"role": "user", "content": [result]})
    assert "<think>\nHm.\n</think>" in thinker.engine.prompt


def test_a_budget_where_thoughts_can_be_ended(server_for: Callable[[str], ScriptedServer]) -> None:
    thinking = {"type": "enabled", "budget_tokens": 9}
    for template, limited in (("qwen3-marked", True), ("qwen3", False), ("qwen2.5", False)):
        server = server_for(template)
        server.engine.says("ok")
        ok(server, thinking=thinking)
        limit = server.engine.requests[-1].sampling.thinking
        assert (limit is not None and limit.num_tokens == 9) == limited, template


def test_the_last_answer_is_continued(qwen: ScriptedServer) -> None:
    qwen.engine.says(" rains.")
    found = ok(qwen, USER, {"role": "assistant", "content": "It"})
    assert found["content"][0]["text"] == " rains."
    assert qwen.engine.prompt.endswith("<|im_start|>assistant\nIt")


def test_what_the_model_must_call(qwen: ScriptedServer) -> None:
    qwen.engine.says(CALL)
    choices: list[Any] = [{"type": "any"}, {"type": "tool", "name": "weather"}]
    for choice in choices:
        # litellm adds the type; `strict` is not needed.
        found = ok(qwen, tools=[{**WEATHER, "type": "custom"}], tool_choice=choice)
        assert found["stop_reason"] == "tool_use"
        grammar = qwen.engine.requests[-1].sampling.grammar
        assert grammar is not None
        assert "city" in grammar.source
    qwen.engine.says(CALL + CALL)
    assert len(ok(qwen, tools=[WEATHER])["content"]) == 2
    one = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(ok(qwen, tools=[WEATHER], tool_choice=one)["content"]) == 1
    ok(qwen, tools=[WEATHER], tool_choice={"type": "none"})
    assert "weather" not in qwen.engine.prompt


def test_the_text_has_the_form_that_is_asked_for(qwen: ScriptedServer) -> None:
    qwen.engine.says('{"city": "Rome"}')
    wanted = {"type": "json_schema", "schema": SCHEMA}
    for fields in ({"output_config": {"format": wanted}}, {"output_format": wanted}):
        ok(qwen, **fields)
        grammar = qwen.engine.requests[-1].sampling.grammar
        assert grammar is not None
        assert "city" in grammar.source


def test_the_tokens_of_a_prompt_are_counted(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    fields = {**CLAUDE_CODE, "tools": [WEATHER]}
    ok(qwen, *TURNS, **fields)
    asked = {key: value for key, value in body(*TURNS, **fields).items() if key != "max_tokens"}
    answer = qwen.request("POST", f"{PATH}/count_tokens?beta=true", asked)
    assert answer.json == {"input_tokens": len(qwen.engine.requests[-1].prompt_token_ids)}
    assert len(qwen.engine.requests) == 1


def test_many_tools_with_long_names(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    tools = [{"name": f"f{i:0127}", "input_schema": {}} for i in range(200)]
    ok(qwen, tools=tools, tool_choice={"type": "any"})
    assert all(tool["name"] in qwen.engine.prompt for tool in tools)


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": [PICTURE]}


def test_what_is_near_to_an_ignored_field_is_taken(qwen: ScriptedServer) -> None:
    """A block that a newer client adds may have a name beside that of an echo: `tool_name` and `toolset_name`."""
    qwen.engine.says("ok")
    ok(qwen, {"role": "user", "content": [{"type": "text", "text": "x", "toolsets_name": "x", "ld": 1}]}, metadat={})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [PICTURE]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [RESULT]}]}, "messages[0].content[0].content[0].type"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]}]}, "id"),
    ({"messages": [{"role": "user", "content": "x", "contents": 1}]}, "contents"),
    ({"system": [PICTURE]}, "system[0].type"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [{"name": "f" * 129, "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [SERVERS] * 1025}, "tools"),
    ({"tools": [SERVERS, WEATHER, WEATHER]}, "tools[2].name"),
    ({"tools": [{"name": "f"}]}, "input_schema"),
    ({"tools": [{**WEATHER, "input_schema": []}]}, "tools[0].input_schema"),
    ({"tools": [{**WEATHER, "strict": True, "input_schema": {"not": {}}}]}, "tools[0].input_schema"),
    ({"tools": [SERVERS], "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
    ({"thinking": {"type": "on"}}, "thinking.type"),
    ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "output_config.format.schema"),
    ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["a"], "stop": "b"}, "stop"),
    ({"temperature": -1}, "temperature"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"max_token": 5}, "max_token"),
]


@pytest.mark.parametrize(("fields", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_what_is_refused_is_named(qwen: ScriptedServer, fields: dict[str, Any], place: str) -> None:
    answer = qwen.request("POST", PATH, {key: each for key, each in body(**fields).items() if each is not None})
    assert answer.status == 400, answer.body
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert f"`{place}`" in answer.json["error"]["message"]


@pytest.mark.parametrize("field", [field.encode_name for field in msgspec.structs.fields(MessagesRequest)])
def test_a_wrong_type_is_named(qwen: ScriptedServer, field: str) -> None:
    qwen.engine.says("ok")
    # Fields that no server is known to have are taken inside of objects too.
    unknown = [] if field == "output_config" else [{"\x00": [{}]}]
    for wrong in (*unknown, [[{}]], 1e300):
        answer = qwen.request("POST", PATH, body(**{field: wrong}))
        assert answer.status == 400, (wrong, answer.body)
        assert f"`{field}" in answer.json["error"]["message"], answer.body


def test_a_stream_that_fails_ends_with_the_error(qwen: ScriptedServer) -> None:
    qwen.engine.says("abcdef")
    qwen.engine.fails_at = 3
    last = events(qwen)[-1]
    assert (last["type"], last["error"]) == ("error", {"type": "api_error", "message": "the engine gave up"})
    assert last["request_id"]
    qwen.engine.fails_at = 0
    answer = qwen.request("POST", PATH, body(stream=True))
    assert (answer.status, answer.json["error"]["type"]) == (500, "api_error")


def test_the_requests_id_is_where_anthropics_clients_look(qwen: ScriptedServer) -> None:
    qwen.engine.says("ok")
    for path, sent in ((PATH, body()), (PATH, {}), (f"{PATH}/batches", {}), ("/invocations", body(system="x"))):
        answer = qwen.request("POST", path, sent, X_Request_Id="order-7")
        assert (answer.headers["request-id"], answer.headers["X-Request-Id"]) == ("order-7", "order-7")
        assert answer.json.get("request_id", "order-7") == "order-7"
    assert "request-id" not in qwen.chat().headers


STATUSES: list[tuple[ServiceError, int, str]] = [
    (Overloaded("full", retry_after_s=1), 529, "overloaded_error"),
    (OutOfMemory("full"), 529, "overloaded_error"),
    (NotReady("loading"), 503, "overloaded_error"),
]


@pytest.mark.parametrize(("error", "status", "kind"), STATUSES, ids=lambda each: type(each).__name__)
def test_what_is_worth_another_try_has_anthropics_status(error: ServiceError, status: int, kind: str) -> None:
    with Flask("errors").test_request_context():
        answer = error_response(error)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["type"]) == (status, kind)


def test_a_prompt_that_is_too_long_is_told_in_anthropics_words(qwen: ScriptedServer) -> None:
    answer = qwen.request("POST", PATH, body({"role": "user", "content": "x" * 100_001}))
    assert answer.status == 400
    assert answer.json["error"]["message"].startswith("prompt is too long: 100")
    assert answer.json["error"]["message"].endswith(" tokens > 99999 maximum")
    assert ContextLengthExceeded("x").limit is None


def test_an_unknown_path_has_anthropics_error(qwen: ScriptedServer) -> None:
    answer = qwen.request("POST", f"{PATH}/batches", {})
    assert (answer.status, answer.json["error"]["type"]) == (404, "not_found_error")


TOLD: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"anthropic_version": "bedrock-2023-05-31"}, True),
    ({"system": "Be short."}, True),
    ({"system": ""}, False),
    ({"tools": [WEATHER]}, True),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
    *(({"messages": [{"role": "user", "content": [{"type": kind}]}]}, True) for kind in ("tool_result", "thinking")),
    *(({"messages": [{"role": "user", "content": [{"type": kind}]}]}, False) for kind in ("text", "image_url", None)),
    ({"messages": [[], {"content": [3]}, {"content": 5}], "tools": [None]}, False),
]


@pytest.mark.parametrize(("fields", "told"), TOLD)
def test_whose_messages_they_are(fields: dict[str, Any], told: bool) -> None:
    assert is_anthropics({"messages": [USER], **fields}) == told


def test_invocations_tells_it_by_its_version(qwen: ScriptedServer) -> None:
    qwen.engine.says("abc")
    found = events(qwen, path="/invocations", anthropic_version="bedrock-2023-05-31")
    assert found[-1]["type"] == "message_stop"
    assert qwen.request("POST", "/invocations", body()).json["object"] == "chat.completion"
    for kind in ("addition", "removal"):
        block = {"type": f"tool_{kind}", "tool": {"type": "tool_reference", "name": "f"}}
        changed = body(messages=[USER, {"role": "system", "content": [block]}])
        assert qwen.request("POST", "/invocations", changed).json["type"] in {"message", "error"}, kind
    refused = qwen.request("POST", "/invocations", body(system="x", max_tokens=0))
    assert (refused.status, refused.json["type"]) == (400, "error")
    named = {"X_Amzn_SageMaker_Custom_Attributes": "route=/v1/messages/count_tokens"}
    assert list(qwen.request("POST", "/invocations", body(), **named).json) == ["input_tokens"]
