"""/v1/chat/completions without tools: choices, limits, log-probabilities, reasoning, formats, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.contract.openai.scripted import USER, ScriptedServer


def test_an_answer_and_its_chunks_fit_openais_types(qwen: ScriptedServer) -> None:
    qwen.engine.says("Bonjour é!")
    found = ChatCompletion.model_validate(qwen.ok(model="any/thing", service_tier="auto"), strict=True)
    assert (found.model, found.choices[0].message.content, found.choices[0].finish_reason) == (
        "any/thing",
        "Bonjour é!",
        "stop",
    )
    assert found.service_tier == "default"
    chunks = [ChatCompletionChunk.model_validate(each, strict=True) for each in qwen.chunks()]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Bonjour é!"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {(chunks[0].id, chunks[0].created, "quick")}


def test_n_choices_have_seeds_of_their_own_and_share_the_prompt(qwen: ScriptedServer) -> None:
    qwen.engine.says("one", "two", "three")
    found = qwen.ok(n=3, seed=7)
    assert sorted(choice["message"]["content"] for choice in found["choices"]) == ["one", "three", "two"]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    seeds = [request.sampling.seed for request in qwen.engine.requests]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    prompt_tokens = len(qwen.engine.requests[0].prompt_token_ids)
    completion_tokens = len("onetwothree") + 3
    assert found["usage"]["prompt_tokens"] == prompt_tokens
    assert found["usage"]["completion_tokens"] == completion_tokens
    assert found["usage"]["total_tokens"] == prompt_tokens + completion_tokens


def test_streamed_choices_interleave(qwen: ScriptedServer) -> None:
    qwen.engine.says("a" * 40, "b" * 40)
    chunks = qwen.chunks(n=2, stream_options={"include_usage": True})
    *body, last = chunks
    texts = {0: "", 1: ""}
    for chunk in body:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert sorted(texts.values()) == ["a" * 40, "b" * 40]
    order = [chunk["choices"][0]["index"] for chunk in body]
    assert order != sorted(order)
    assert sum(chunk["choices"][0]["finish_reason"] == "stop" for chunk in body) == 2
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 82


def test_one_refused_choice_refuses_all(qwen: ScriptedServer) -> None:
    qwen.engine.rejects = "grammar is not valid: no"
    answer = qwen.chat(n=4, response_format={"type": "regex", "value": "["})
    assert answer.status == 400
    assert answer.json["error"]["message"] == "grammar is not valid: no"
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_continuous_usage(qwen: ScriptedServer) -> None:
    qwen.engine.says("abc")
    chunks = qwen.chunks(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 4


def test_logprobs_spell_the_text_to_the_byte(qwen: ScriptedServer) -> None:
    qwen.engine.says("né 🙂")
    (choice,) = qwen.ok(logprobs=True, top_logprobs=2)["choices"]
    entries = choice["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == choice["message"]["content"]
    assert entries[1]["token"] == "\\xc3"
    assert entries[0]["logprob"] == -0.5
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-1.0, -2.0]
    streamed = [c["choices"][0]["logprobs"] for c in qwen.chunks(logprobs=True, top_logprobs=2)]
    assert [entry for found in streamed if found for entry in found["content"]] == entries


def test_parameters_reach_the_engine(qwen: ScriptedServer) -> None:
    qwen.ok(
        temperature=0.5,
        top_p=0.9,
        frequency_penalty=1,
        presence_penalty=-1,
        logit_bias={"65": 5, "66": -100},
        max_completion_tokens=9,
        max_tokens=99,
        stop="x",
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.2,
        ignore_eos=True,
        min_tokens=2,
        user="u",
        metadata={"a": "b"},
        store=True,
        parallel_tool_calls=True,
        prompt_cache_key="k",
        safety_identifier="s",
        prediction={"type": "content", "content": "x"},
        modalities=["text"],
        verbosity="medium",
        audio=None,
        functions=None,
        reasoning_effort="low",
    )
    sampling = qwen.engine.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 3, 0.1)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) == (1, -1, 1.2)
    assert sampling.logit_bias == {65: 5, 66: -100}
    assert (sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos) == (9, 2, True)
    assert sampling.grammar is None


@pytest.mark.parametrize(
    ("options", "salt", "reuse"),
    [({}, "", True), ({"cache_salt": "tenant"}, "tenant", True), ({"cache_prompt": False}, "", False)],
)
def test_whose_prefixes_are_reused(qwen: ScriptedServer, options: dict[str, Any], salt: str, reuse: bool) -> None:
    qwen.ok(**options)
    assert (qwen.engine.requests[0].cache_salt, qwen.engine.requests[0].reuse_prefix) == (salt, reuse)


@pytest.mark.parametrize("stop", ["STOP", ["never", "STOP"]])
def test_stop_strings_end_the_text(qwen: ScriptedServer, stop: Any) -> None:
    qwen.engine.says("one STOP two")
    found = qwen.ok(stop=stop)["choices"][0]
    assert (found["message"]["content"], found["finish_reason"]) == ("one ", "stop")


def test_length_is_told(qwen: ScriptedServer) -> None:
    qwen.engine.says("abcdef")
    found = qwen.ok(max_tokens=3)["choices"][0]
    assert (found["message"]["content"], found["finish_reason"]) == ("abc", "length")


def test_an_end_in_the_last_place_is_a_stop(qwen: ScriptedServer) -> None:
    """On TGI's routes it is a length (tests/contract/tgi/test_generate.py)."""
    qwen.engine.says("ab")
    assert qwen.ok(max_tokens=3)["choices"][0]["finish_reason"] == "stop"
    body = {"prompt": "x", "max_tokens": 3}
    assert qwen.request("POST", "/v1/completions", body).json["choices"][0]["finish_reason"] == "stop"
    parameters = {"max_new_tokens": 3, "details": True}
    found = qwen.request("POST", "/generate", {"inputs": "x", "parameters": parameters}).json
    assert found["details"]["finish_reason"] == "length"


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CLOSED = SCHEMA | {"additionalProperties": False}
OPEN = SCHEMA | {"additionalProperties": True}


@pytest.mark.parametrize(
    ("response_format", "kind", "source"),
    [
        ({"type": "json_object"}, "json_schema", {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            "json_schema",
            CLOSED,
        ),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, "json_schema", CLOSED),
        ({"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}}, "json_schema", CLOSED),
        ({"type": "json", "value": SCHEMA}, "json_schema", CLOSED),
        ({"type": "json_object", "value": SCHEMA}, "json_schema", CLOSED),
        ({"type": "json", "value": json.dumps(SCHEMA)}, "json_schema", CLOSED),
        ({"type": "json", "value": OPEN}, "json_schema", OPEN),
        ({"type": "json_object", "schema": SCHEMA}, "json_schema", CLOSED),
        ({"type": "json_object", "json_schema": {"name": "n", "schema": SCHEMA}}, "json_schema", CLOSED),
        ({"type": "json_object", "schema": None, "json_schema": None}, "json_schema", {"type": "object"}),
        ({"type": "regex", "value": "a+"}, "regex", "a+"),
    ],
)
def test_response_formats_become_grammars(qwen: ScriptedServer, response_format: Any, kind: str, source: Any) -> None:
    qwen.ok(response_format=response_format)
    grammar = qwen.engine.requests[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind == kind
    assert (grammar.source if kind == "regex" else json.loads(grammar.source)) == source


def test_text_is_no_grammar(qwen: ScriptedServer) -> None:
    qwen.ok(response_format={"type": "text"})
    assert qwen.engine.requests[0].sampling.grammar is None


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"nonsense": 1}, "nonsense", "unknown field"),
    ({"messages": []}, "messages", "non-empty"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type", "reads text only"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string or an array of text parts"),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "messages[0].content[0].type",
        "text only",
    ),
    ({"messages": [{"role": "pirate", "content": "x"}]}, "messages[0].role", "one of"),
    ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages[0].foo", "unknown field"),
    ({"messages": [{"role": "assistant"}]}, "messages[0]", "tool_calls"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages[0].tool_calls", "null"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "missing"),
    ({"n": 0}, "n", "from 1"),
    ({"n": 1000}, "n", "from 1"),
    ({"top_logprobs": 2}, "top_logprobs", "needs `logprobs`"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    ({"temperature": -1}, "temperature", "from 0"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "from -100 to 100"),
    ({"logit_bias": {"260": 1}}, "logit_bias", "below 260"),
    ({"stop_token_ids": [-1]}, "stop_token_ids", "token ids"),
    ({"stop_token_ids": [260]}, "stop_token_ids", "below 260"),
    ({"top_p": -0.1}, "top_p", "from 0 to 1"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": [""]}, "stop", "non-empty"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"audio": {"voice": "x", "format": "wav"}}, "audio", "not supported"),
    ({"modalities": ["audio"]}, "modalities[0]", "audio answers are not supported"),
    ({"functions": [{"name": "f"}]}, "functions", "tools"),
    ({"web_search_options": {}}, "web_search_options", "not supported"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "one of"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        "response_format.json_schema.schema",
        "missing",
    ),
    ({"response_format": {"type": "json_schema", "schema": {}}}, "response_format.schema", "unknown field"),
    ({"response_format": {"type": "json_object", "shema": {}}}, "response_format.shema", "unknown field"),
    ({"response_format": {"type": "text", "value": {}}}, "response_format.value", "unknown field"),
    ({"response_format": {"type": "regex", "value": "a", "flags": "i"}}, "response_format.flags", "unknown field"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "stict": True}}},
        "response_format.json_schema.stict",
        "unknown field",
    ),
    ({"response_format": {"type": "json_object", "schema": {}, "value": {}}}, "response_format", "must have one of"),
    (
        {"tools": [{"function": {"name": "f", "input_schema": {}}}]},
        "tools[0].function.input_schema",
        "send `parameters`",
    ),
    ({"tools": [{"function": {"name": "f", "paramaters": {}}}]}, "tools[0].function.paramaters", "unknown field"),
    ({"tools": [{"function": {"name": "f"}, "strict": True}]}, "tools[0].strict", "send it inside `function`"),
    ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs.messages", "reserved"),
    ({"chat_template_kwargs": {"tools": ["x"]}}, "chat_template_kwargs.tools", "reserved"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "reserved"),
    ({"chat_template_kwargs": {"a": {"b": 1}}}, "chat_template_kwargs.a", "array"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", "exclude"),
]


@pytest.mark.parametrize(("fields", "param", "words"), REFUSED, ids=lambda value: str(value)[:50])
def test_refusals_name_the_field(qwen: ScriptedServer, fields: dict[str, Any], param: str, words: str) -> None:
    answer = qwen.request("POST", "/v1/chat/completions", {"messages": [USER], **fields})
    assert answer.status == 400, answer.body
    error = answer.json["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert qwen.engine.requests == []


def test_messages_reach_the_template(qwen: ScriptedServer) -> None:
    qwen.ok(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    )
    assert qwen.engine.prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
    )
    qwen.ok("x", {"role": "assistant", "content": "It is"}, continue_final_message=True)
    assert qwen.engine.prompt.endswith("<|im_start|>assistant\nIt is")
    qwen.ok("x", add_generation_prompt=False)
    assert qwen.engine.prompt.endswith("x<|im_end|>\n")


def test_user_text_is_no_control_token(qwen: ScriptedServer) -> None:
    qwen.ok("<|im_end|>")
    assert qwen.engine.requests[0].prompt_token_ids.count(257) == 2


THOUGHT = "<think>\nLet me see.\n</think>\n\nIt is 4."


@pytest.mark.parametrize("bytes_per_step", [1, 100])
def test_reasoning_is_told_apart(thinker: ScriptedServer, bytes_per_step: int) -> None:
    thinker.engine.says(THOUGHT)
    thinker.engine.bytes_per_step = bytes_per_step
    found = thinker.ok()
    message = found["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Let me see.", "It is 4.")
    assert 0 < found["usage"]["completion_tokens_details"]["reasoning_tokens"] < found["usage"]["completion_tokens"] + 1
    deltas = [chunk["choices"][0]["delta"] for chunk in thinker.chunks()]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Let me see."
    assert "".join(delta.get("content") or "" for delta in deltas) == "It is 4."


def test_thoughts_the_prompt_has_opened(thinker: ScriptedServer) -> None:
    thinker.engine.says("Hm.\n</think>\n\n4")
    message = thinker.ok("x", {"role": "assistant", "content": "<think>\n"}, continue_final_message=True)
    assert thinker.engine.prompt.rstrip().endswith("<think>")
    assert message["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert message["choices"][0]["message"]["content"] == "4"


def test_a_constrained_answer_has_no_thoughts(thinker: ScriptedServer) -> None:
    thinker.engine.says('{"a": 1}')
    found = thinker.ok(
        "x",
        {"role": "assistant", "content": "<think>\n"},
        continue_final_message=True,
        response_format={"type": "json_object"},
    )
    assert thinker.engine.prompt.endswith("<think>\n</think>\n\n") or thinker.engine.prompt.endswith(
        "<think>\n\n</think>\n\n"
    )
    assert found["choices"][0]["message"]["content"] == '{"a": 1}'
    assert "reasoning_content" not in found["choices"][0]["message"]


def test_thinking_can_be_turned_off(thinker: ScriptedServer) -> None:
    thinker.ok(chat_template_kwargs={"enable_thinking": False})
    assert thinker.engine.prompt.endswith("<think>\n\n</think>\n\n")
    thinker.ok(reasoning_effort="none")
    assert thinker.engine.prompt.endswith("<think>\n\n</think>\n\n")


def test_models(qwen: ScriptedServer) -> None:
    listed = qwen.request("GET", "/v1/models").json
    assert [model["id"] for model in listed["data"]] == ["quick"]
    assert qwen.request("GET", "/v1/models/quick").json == listed["data"][0]
    missing = qwen.request("GET", "/v1/models/none")
    assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")


def test_any_model_is_echoed(qwen: ScriptedServer) -> None:
    assert qwen.ok(model="org/other")["model"] == "org/other"
    assert qwen.ok(model="")["model"] == ""
    assert qwen.ok()["model"] == "quick"
