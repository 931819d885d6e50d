"""vLLM's fields that speak of tokens, on both routes: which may be chosen, which the prompt keeps, which are listed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer
from tests.contract.openai.test_sampling import BODIES, asked, refused
from tests.support.tiny_models import EOS_ID

both = pytest.mark.parametrize("path", BODIES)
VOCABULARY = 260
CONTEXT = 100_000


def whole(server: ScriptedServer, path: str, **fields: Any) -> Any:
    answer = server.request("POST", path, BODIES[path] | fields)
    assert answer.status == 200, answer.body
    return answer.json


def streamed_ids(chunks: list[Any]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk["choices"][0].get("token_ids", [])]


@both
def test_allowed_tokens_are_the_engines(qwen: ScriptedServer, path: str) -> None:
    assert asked(qwen, path, allowed_token_ids=[3, 5, 3]).allowed_token_ids == (3, 5)
    assert asked(qwen, path, allowed_token_ids=None).allowed_token_ids == ()
    for wrong in ([VOCABULARY], [3, VOCABULARY], [2**31 - 1]):
        assert f"`allowed_token_ids` must be made of token ids below {VOCABULARY}" in refused(
            qwen, path, allowed_token_ids=wrong
        )
    for wrong in ([-1], [2**31], []):
        assert "`allowed_token_ids` must be token ids" in refused(qwen, path, allowed_token_ids=wrong)
    refused(qwen, path, allowed_token_ids=["3"])


@both
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 1}, slice(-1, None)),
        ({"truncate_prompt_tokens": 2}, slice(-2, None)),
        ({"truncate_prompt_tokens": 2, "truncation_side": "left"}, slice(-2, None)),
        ({"truncate_prompt_tokens": 2, "truncation_side": "right"}, slice(0, 2)),
        ({"truncate_prompt_tokens": 9999}, slice(None)),
        ({"truncate_prompt_tokens": -1}, slice(None)),
        ({"truncate_prompt_tokens": -1, "max_tokens": CONTEXT - 4}, slice(-4, None)),
        ({"truncate_prompt_tokens": -1, "max_tokens": CONTEXT - 4, "truncation_side": "right"}, slice(0, 4)),
        ({"truncate_prompt_tokens": None}, slice(None)),
        ({"truncation_side": "right"}, slice(None)),
    ],
)
def test_a_prompt_is_cut(qwen: ScriptedServer, path: str, fields: dict[str, Any], kept: slice) -> None:
    body = BODIES[path] | ({"prompt": "truncated"} if "prompt" in BODIES[path] else {})
    qwen.engine.says("x")
    for sent in (body, body | fields, body | fields | {"stream": True}):
        assert qwen.request("POST", path, sent).status == 200
    free, bound, streamed = (request.prompt_token_ids for request in qwen.engine.requests)
    assert bound == streamed == free[kept]


@both
def test_a_cut_that_cannot_be_is_refused(qwen: ScriptedServer, path: str) -> None:
    assert "`truncate_prompt_tokens` must be -1 or at least 1" in refused(qwen, path, truncate_prompt_tokens=0)
    assert "from -1 to" in refused(qwen, path, truncate_prompt_tokens=-2)
    room = CONTEXT - (16 if path == "/v1/completions" else 1)
    assert f"`truncate_prompt_tokens` must be at most {room}" in refused(qwen, path, truncate_prompt_tokens=CONTEXT)
    assert "`truncation_side`" in refused(qwen, path, truncate_prompt_tokens=1, truncation_side="middle")


@both
def test_token_ids_are_returned_whole_and_streamed(qwen: ScriptedServer, path: str) -> None:
    qwen.engine.says("xyz")
    said = [*qwen.engine.token_ids("xyz"), EOS_ID]
    options = {"return_token_ids": True, "n": 2, "max_tokens": 9}
    found = whole(qwen, path, **options)
    prompt = qwen.engine.requests[0].prompt_token_ids
    assert [choice["token_ids"] for choice in found["choices"]] == [said, said]
    chunks = qwen.chunks(path=path, **BODIES[path], **options)
    chat = path != "/v1/completions"
    for index in range(2):
        mine = [chunk for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert streamed_ids(mine) == said
        first, *others = [chunk if chat else chunk["choices"][0] for chunk in mine]
        assert first["prompt_token_ids"] == prompt
        assert not any("prompt_token_ids" in each for each in others)
    for holder in [found] if chat else found["choices"]:
        assert holder["prompt_token_ids"] == prompt
    for flag in (None, False):
        assert "token_ids" not in str(whole(qwen, path, return_token_ids=flag))
        assert "token_ids" not in str(qwen.chunks(path=path, **BODIES[path], return_token_ids=flag))


def test_token_ids_stand_beside_thoughts_and_calls(thinker: ScriptedServer) -> None:
    """Also those of which no text is shown, in the chunks of their own step."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    said = '<think>a</think><tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    thinker.engine.says(said)
    expected = [*thinker.engine.token_ids(said), EOS_ID]
    options = {"return_token_ids": True, "tools": [tool]}
    assert thinker.ok(**options)["choices"][0]["token_ids"] == expected
    chunks = thinker.chunks(**options)
    assert streamed_ids(chunks) == expected


def test_token_ids_with_a_stop_string_and_an_echo(qwen: ScriptedServer) -> None:
    qwen.engine.says("abSTOPcd")
    body = {"prompt": ["hi", "ho"], "echo": True, "stop": "STOP", "return_token_ids": True}
    choices = qwen.request("POST", "/v1/completions", body).json["choices"]
    assert [choice["text"] for choice in choices] == ["hiab", "hoab"]
    assert [choice["prompt_token_ids"] for choice in choices] == [qwen.engine.token_ids(each) for each in ("hi", "ho")]
    assert [choice["token_ids"] for choice in choices] == [qwen.engine.token_ids("abSTOP")] * 2


@both
def test_log_probabilities_may_name_tokens_by_id(qwen: ScriptedServer, path: str) -> None:
    qwen.engine.says("xy")
    names = [f"token_id:{token_id}" for token_id in qwen.engine.token_ids("xy")]
    if path == "/v1/completions":
        found = whole(qwen, path, logprobs=2, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
        assert found["tokens"] == names
        assert found["top_logprobs"] == [{"token_id:0": -1.0, "token_id:1": -2.0}] * 2
        assert found["text_offset"] == [0, 1]
        return
    found = whole(qwen, path, logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True)
    content = found["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == names
    assert [entry["bytes"] for entry in content] == [[ord("x")], [ord("y")]]
    assert [top["token"] for top in content[0]["top_logprobs"]] == ["token_id:0", "token_id:1"]
    assert whole(qwen, path, logprobs=True, return_tokens_as_token_ids=False)["choices"][0]["logprobs"]["content"]


@both
@pytest.mark.parametrize("num_top", [0, 2, 20])
def test_prompt_log_probabilities_have_vllms_shape(qwen: ScriptedServer, path: str, num_top: int) -> None:
    qwen.engine.says("x")
    found = whole(qwen, path, prompt_logprobs=num_top, n=2)
    request = qwen.engine.requests[0]
    assert request.sampling.num_prompt_logprobs == num_top
    ids = request.prompt_token_ids
    holders = [found] if path != "/v1/completions" else found["choices"]
    for holder in holders:
        first, *entries = holder["prompt_logprobs"]
        assert first is None
        assert len(entries) == len(ids) - 1
        for i, (token_id, entry) in enumerate(zip(ids[1:], entries, strict=True), 1):
            assert set(entry) == {str(token_id)} | {str(top) for top in range(num_top)}
            assert set(entry[str(token_id)]) == {"logprob", "rank", "decoded_token"}
            if token_id >= num_top:
                assert entry[str(token_id)]["logprob"] == -float(i)
        if num_top:
            assert entries[0]["0"] == {"logprob": -1.0, "rank": 1, "decoded_token": qwen.engine.text([0])}
    assert "prompt_logprobs" not in whole(qwen, path)


@both
def test_prompt_log_probabilities_are_refused_where_vllm_refuses_them(qwen: ScriptedServer, path: str) -> None:
    words = refused(qwen, path, prompt_logprobs=1, stream=True)
    assert words == "`prompt_logprobs` above 0 is not available in a stream"
    for wrong in (-1, 21):
        assert f"`prompt_logprobs` must be from 0 to 20. Given: {wrong}" in refused(qwen, path, prompt_logprobs=wrong)
    qwen.engine.says("x")
    assert qwen.chunks(path=path, **BODIES[path], prompt_logprobs=0)


def test_an_echo_and_the_prompts_log_probabilities_list_what_each_asks_for(qwen: ScriptedServer) -> None:
    qwen.engine.says("x")
    body = {"prompt": "hi", "echo": True, "logprobs": 1, "prompt_logprobs": 3}
    choice = qwen.request("POST", "/v1/completions", body).json["choices"][0]
    assert qwen.engine.requests[0].sampling.num_prompt_logprobs == 3
    assert len(choice["logprobs"]["top_logprobs"][1]) == 1
    assert len(choice["prompt_logprobs"][1]) == 4


@both
def test_an_id_of_the_clients_names_the_answer(qwen: ScriptedServer, path: str) -> None:
    prefix = "cmpl" if path == "/v1/completions" else "chatcmpl"
    qwen.engine.says("x")
    assert whole(qwen, path, request_id="mine-1")["id"] == f"{prefix}-mine-1"
    chunks = qwen.chunks(path=path, **BODIES[path], request_id="mine-1")
    assert {chunk["id"] for chunk in chunks} == {f"{prefix}-mine-1"}
    assert "mine-1" not in {request.request_id for request in qwen.engine.requests}, "the engine's ids are unique"
    assert "`request_id` must be 1 to 256 characters" in refused(qwen, path, request_id="")
    assert "`request_id` must be 1 to 256 characters" in refused(qwen, path, request_id="x" * 257)


@both
def test_there_is_one_priority(qwen: ScriptedServer, path: str) -> None:
    for priority in (None, 0, 1, -5, 2**63 - 1, -(2**63)):
        assert asked(qwen, path, priority=priority)
    refused(qwen, path, priority=2**63)
    refused(qwen, path, priority="high")
