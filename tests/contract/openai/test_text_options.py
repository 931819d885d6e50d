"""What the text of an answer holds beside the model's words: vLLM's fields, whole and streamed, on both routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.openai.scripted import ScriptedServer
from tests.support.tiny_models import EOS_ID

TAG = "<|python_tag|>"
END = "<|im_end|>"
SAID = f"a{TAG}b{TAG}STOPc"
# Fields, and the text of an answer for which the model says SAID.
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "abSTOPc"),
    ({"skip_special_tokens": True, "spaces_between_special_tokens": False}, "abSTOPc"),
    ({"skip_special_tokens": False}, SAID),
    ({"skip_special_tokens": False, "spaces_between_special_tokens": False}, SAID),
    ({"skip_special_tokens": False, "spaces_between_special_tokens": True}, SAID),
    ({"stop": "STOP"}, "ab"),
    ({"stop": "STOP", "include_stop_str_in_output": False}, "ab"),
    ({"stop": ["STOP", "x"], "include_stop_str_in_output": True}, "abSTOP"),
    ({"stop": "STOP", "no_stop_trim": True}, "abSTOP"),
    ({"stop": f"{TAG}ST", "include_stop_str_in_output": True}, "abST"),
    ({"stop": f"{TAG}ST", "skip_special_tokens": False}, f"a{TAG}b"),
    ({"stop": f"{TAG}ST", "skip_special_tokens": False, "include_stop_str_in_output": True}, f"a{TAG}b{TAG}ST"),
    ({"include_stop_str_in_output": True}, "abSTOPc"),
    ({"include_stop_str_in_output": True, "skip_special_tokens": False}, SAID + END),
]


@pytest.fixture
def llama(server_for: Callable[[str], ScriptedServer]) -> ScriptedServer:
    return server_for("llama-3.3")


@pytest.mark.parametrize("num_bytes", [1, 7])
@pytest.mark.parametrize(("fields", "text"), CASES)
def test_whole_and_streamed_on_both_routes(
    llama: ScriptedServer, fields: dict[str, Any], text: str, num_bytes: int
) -> None:
    llama.engine.says(SAID)
    llama.engine.bytes_per_step = num_bytes
    fields = fields | {"n": 2}
    assert [choice["message"]["content"] for choice in llama.ok("hi", **fields)["choices"]] == [text, text]
    chunks = llama.chunks("hi", **fields)
    for index in range(2):
        deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(delta.get("content") or "" for delta in deltas) == text
    body = {"prompt": ["hi", "ho"], "max_tokens": 99, **fields}
    answer = llama.request("POST", "/v1/completions", body)
    assert [choice["text"] for choice in answer.json["choices"]] == [text] * 4
    chunks = llama.chunks(path="/v1/completions", **body)
    for index in range(4):
        assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == index) == text


@pytest.mark.parametrize(("fields", "text"), CASES)
def test_log_probabilities_spell_the_text(llama: ScriptedServer, fields: dict[str, Any], text: str) -> None:
    """Up to a stop string, whose tokens have their entries. Behind an echo all tokens have, hidden ones too."""
    llama.engine.says(SAID)
    choice = llama.ok("hi", logprobs=True, **fields)["choices"][0]
    spelt = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"]).decode()
    assert spelt.startswith(text)
    assert (TAG in spelt) == (fields.get("skip_special_tokens") is False)
    body = {"prompt": "hi", "max_tokens": 99, "logprobs": 0, "echo": True, **fields}
    lists = llama.request("POST", "/v1/completions", body).json["choices"][0]
    tokens, offsets = lists["logprobs"]["tokens"], lists["logprobs"]["text_offset"]
    assert tokens.count(TAG) == (2 if "ST" in "".join(tokens) else 1)
    hidden = () if fields.get("skip_special_tokens") is False else (TAG, END)
    shown = [(token, start) for token, start in zip(tokens, offsets, strict=True) if token not in hidden]
    whole = "".join(token for token, _ in shown)
    assert whole.startswith(lists["text"])
    assert lists["text"] == f"hi{text}"
    assert all(whole[start] == token[0] for token, start in shown)


def test_an_echo_shows_the_prompts_control_tokens(llama: ScriptedServer) -> None:
    llama.engine.says("x")
    body = {"prompt": [EOS_ID, *llama.engine.token_ids("hi")], "echo": True}
    assert llama.request("POST", "/v1/completions", body).json["choices"][0]["text"] == "hix"
    body |= {"skip_special_tokens": False}
    assert llama.request("POST", "/v1/completions", body).json["choices"][0]["text"] == f"{END}hix"


def test_calls_are_found_in_a_text_with_control_tokens(llama: ScriptedServer) -> None:
    call = '{"name": "f", "parameters": {}}'
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    llama.engine.says(f"{TAG}{call}")
    for fields in ({}, {"skip_special_tokens": False}, {"skip_special_tokens": True}):
        message = llama.ok("hi", tools=[tool], **fields)["choices"][0]["message"]
        assert [each["function"]["name"] for each in message["tool_calls"]] == ["f"]
        assert not message["content"]
