"""vLLM's /tokenize (the path of TGI's), /detokenize and /tokenizer_info (vllm/entrypoints/serve/tokenize, 0.33.0)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.openai.scripted import TEMPLATES, ScriptedEngine, ScriptedServer

# The document fixtures' card: `write_card`.
CONTEXT = 100_000
# Objects with a string `content` that are no tokens.
RESPONSE_TEMPLATE = {"properties": {"content": "text"}, "parts": [{"content": "x", "role": "assistant"}]}
BOS, BOS_ID = "<|endoftext|>", 258

SAY = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def adds_bos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """A tokenizer that puts a token before each text, and a configuration that writes a token in full."""
    directory = tmp_path_factory.mktemp("bos")
    engine = ScriptedEngine(directory, (TEMPLATES / "qwen2.5.jinja").read_text())
    path = directory / "tokenizer" / "tokenizer.json"
    a_text, bos = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": BOS, "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [bos, a_text],
        "pair": [bos, a_text, a_text],
        "special_tokens": {BOS: {"id": BOS, "ids": [BOS_ID], "tokens": [BOS]}},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": processor}))
    path = path.with_name("tokenizer_config.json")
    token = {"__type": "AddedToken", "content": BOS, "special": True, "lstrip": False}
    untyped = {"content": BOS, "special": True}
    more = {"bos_token": token, "added_tokens_decoder": {"258": untyped}, "name_or_path": "/somewhere"}
    more |= {"response_template": RESPONSE_TEMPLATE, "other": [token]}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    server = ScriptedServer(directory)
    server.engine = engine
    try:
        server.start(0)
        server.wait_ready()
        yield server
    finally:
        server.kill()
        engine.close()


def tokens(server: ScriptedServer, **body: Any) -> dict[str, Any]:
    answer = server.request("POST", "/tokenize", body)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    assert list(found) == ["count", "max_model_len", "tokens", "token_strs"]
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == CONTEXT
    return found


def test_a_prompt_is_its_ids(qwen: ScriptedServer) -> None:
    found = tokens(qwen, prompt="hé", model="any")
    assert found["tokens"] == qwen.engine.token_ids("hé")
    assert found["token_strs"] is None
    spelt = tokens(qwen, prompt="h é<|im_end|>", return_token_strs=True)
    assert spelt["token_strs"] == ["h", "Ġ", "Ã", "©", "<|im_end|>"], "as the vocabulary spells them"
    assert tokens(qwen, prompt="")["tokens"] == []


@pytest.mark.parametrize("inputs", ["hi", "", 5])
def test_inputs_are_tgis(qwen: ScriptedServer, inputs: Any) -> None:
    """Whatever else the body has, and also where it is refused."""
    answer = qwen.request("POST", "/tokenize", {"inputs": inputs, "prompt": "x", "messages": SAY})
    if inputs == 5:
        assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (422, "text/plain")
    else:
        assert [token["text"] for token in answer.json] == list(inputs)
    assert "prompt" in qwen.request("POST", "/tokenize", {"inputs": None, "prompt": 5}).json["error"]["message"]


def test_special_tokens_are_added_to_prompts_and_not_to_chats(adds_bos: ScriptedServer) -> None:
    server, bos, ids = adds_bos, BOS_ID, adds_bos.engine.token_ids("hi")
    assert tokens(server, prompt="hi")["tokens"] == [bos, *ids]
    assert tokens(server, prompt="hi", add_special_tokens=None)["tokens"] == [bos, *ids]
    assert tokens(server, prompt="hi", add_special_tokens=False)["tokens"] == ids
    chat = tokens(server, messages=SAY)["tokens"]
    assert bos not in chat
    assert tokens(server, messages=SAY, add_special_tokens=True)["tokens"] == [bos, *chat]


CHATS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"tools": [TOOL]},
    {"tools": [TOOL], "tool_choice": "none"},
    {"tools": []},
    {"messages": [*SAY, {"role": "assistant", "content": "I am"}], "continue_final_message": True},
    {"messages": [{"role": "user", "content": "<|im_end|>x"}]},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"reasoning_effort": "none", "temperature": 0.5, "stream": True, "user": "me"},
]


@pytest.mark.parametrize("fields", CHATS, ids=lambda fields: "-".join(fields))
def test_a_chat_is_the_prompt_that_the_model_gets(thinker: ScriptedServer, fields: dict[str, Any]) -> None:
    """A whole chat request may be sent."""
    body = {"messages": SAY} | fields
    thinker.engine.says("x")
    assert thinker.request("POST", "/v1/chat/completions", {**body, "stream": False}).status == 200
    assert tokens(thinker, **body)["tokens"] == thinker.engine.requests[-1].prompt_token_ids


def test_ids_become_the_text_they_came_from(qwen: ScriptedServer) -> None:
    for text in ("hé 🌍<|im_end|>", "", " a"):
        answer = qwen.request("POST", "/detokenize", {"tokens": tokens(qwen, prompt=text)["tokens"], "model": "any"})
        assert answer.json == {"prompt": text}, answer.body


REFUSED: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("/tokenize", {"prompt": ["a"]}, "prompt", "a string"),
    ("/tokenize", {"prompt": "a", "messages": SAY}, "messages", "exclude each other"),
    ("/tokenize", {"prompt": "a", "add_special_token": True}, "add_special_token", "`add_special_tokens`"),
    ("/tokenize", {"prompt": "a", "truncate_prompt_tokens": 1}, "truncate_prompt_tokens", "all tokens are answered"),
    ("/tokenize", {"messages": []}, "messages", "a non-empty array"),
    ("/tokenize", {"messages": SAY, "return_token_str": True}, "return_token_str", "`return_token_strs`"),
    (
        "/tokenize",
        {"messages": SAY, "continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "exclude",
    ),
    ("/tokenize", {"messages": SAY, "chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.messages", "reser"),
    ("/detokenize", {}, "tokens", "missing"),
    ("/detokenize", {"tokens": "a"}, "tokens", "an array of token ids"),
    ("/detokenize", {"tokens": [1, True]}, "tokens[1]", "an integer"),
    ("/detokenize", {"tokens": [1, -1]}, "tokens", "token ids from 0 to 259. Given: -1"),
    ("/detokenize", {"tokens": [1, 260, 2**70]}, "tokens", "token ids from 0 to 259. Given: 260"),
    ("/detokenize", {"tokens": [2**63]}, "tokens", "token ids from 0 to 259"),
    ("/detokenize", {"tokens": [1], "skip_special_token": True}, "skip_special_token", "unknown field"),
]


@pytest.mark.parametrize(("path", "body", "param", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_name_the_field(
    qwen: ScriptedServer, path: str, body: dict[str, Any], param: str | None, words: str
) -> None:
    answer = qwen.request("POST", path, body)
    assert answer.status == 400, answer.body
    assert answer.json["error"]["param"] == param
    assert words in answer.json["error"]["message"]


def test_what_fails_before_the_body_is_read_is_in_tgis_words(qwen: ScriptedServer) -> None:
    answer = qwen.request("POST", "/tokenize", b"{")
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (400, "text/plain")
    assert qwen.request("POST", "/tokenize", {}).body.decode().endswith("missing field `inputs` at line 1 column 2")
    assert "error" in qwen.request("POST", "/detokenize", b"{").json


def test_the_tokenizers_configuration(adds_bos: ScriptedServer) -> None:
    found = adds_bos.request("GET", "/tokenizer_info").json
    assert (found["bos_token"], found["eos_token"]) == (BOS, "<|im_end|>")
    assert found["added_tokens_decoder"] == {"258": BOS}
    assert found["other"] == [BOS]
    assert found["response_template"] == RESPONSE_TEMPLATE
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|im_start|>system" in found["chat_template"]
    assert "name_or_path" not in found


def test_invocations_by_the_route_named_in_the_attributes(qwen: ScriptedServer) -> None:
    ids = qwen.engine.token_ids("hi")
    for route, body, found in (("/tokenize", {"prompt": "hi"}, ids), ("/detokenize", {"tokens": ids}, "hi")):
        headers = {"X-Amzn-SageMaker-Custom-Attributes": f"route={route}"}
        answer = qwen.request("POST", "/invocations", body, **headers)
        assert found in answer.json.values(), answer.body
        refused = qwen.request("POST", "/invocations", {**body, "promt": 1}, **headers)
        assert refused.json["error"]["param"] == "promt"
