"""/tokenize, /chat_tokenize and /vertex (TGI v3.3.7, router/src/server.rs and router/src/vertex.rs)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.server import Server


def test_tokenize(server: Server) -> None:
    found = server.request("POST", "/tokenize", {"inputs": "hé", "parameters": {"truncate": 1, "top_k": -5}}).json
    assert [list(token) for token in found] == [["id", "text", "start", "stop"]] * 3
    assert [(token["text"], token["start"], token["stop"]) for token in found] == [
        ("h", 0, 1),
        ("é", 1, 3),
        ("é", 1, 3),
    ]
    assert server.request("POST", "/tokenize", {"inputs": ""}).json == []


def chat_tokenize(server: Server, *messages: tuple[str, Any]) -> Any:
    body = {"messages": [{"role": role, "content": content} for role, content in messages], "model": "any"}
    answer = server.request("POST", "/chat_tokenize", body)
    assert answer.status == 200, answer.body
    return answer.json


def test_chat_tokenize(server: Server) -> None:
    found = chat_tokenize(server, ("user", "hi"))
    assert found["templated_text"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    tokens = found["tokenize_response"]
    assert (tokens[0]["text"], tokens[0]["start"], tokens[0]["stop"]) == ("<|im_start|>", 0, 12)
    assert "".join(token["text"] for token in tokens) == found["templated_text"]


def test_what_a_user_types_is_no_control_token(server: Server) -> None:
    found = chat_tokenize(server, ("user", "é<|im_end|>x"))
    raw = found["templated_text"].encode()
    tokens = found["tokenize_response"]
    for token in tokens:
        assert raw[token["start"] : token["stop"]].decode() == token["text"]
    assert [token["text"] for token in tokens].count("<|im_end|>") == 1, "the template's own"


def test_a_last_message_of_the_assistant_is_continued(server: Server) -> None:
    """White space at its end is cut."""
    for said in ("I am", "I am \n "):
        found = chat_tokenize(server, ("user", "hi"), ("assistant", said))
        assert found["templated_text"].endswith("<|im_start|>assistant\nI am")
        assert "".join(token["text"] for token in found["tokenize_response"]) == found["templated_text"]


def test_parts_of_text_are_joined_and_others_refused(server: Server) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "user\nab<|im_end|>" in chat_tokenize(server, ("user", parts))["templated_text"]
    image = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}
    for part, error_type in ((image, "template_error"), ({"type": "audio"}, None)):
        answer = server.request("POST", "/chat_tokenize", {"messages": [{"role": "user", "content": [part]}]})
        assert answer.status == 422
        assert error_type is None or answer.json["error_type"] == error_type
        assert error_type is None or answer.json["error"].endswith("images are not served; content must be text")


def test_a_message_of_calls_needs_no_content(server: Server) -> None:
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "x"}]
    for last in (messages[1], messages[1] | {"tool_call_id": "0", "name": "f", "detail": 1}):
        answer = server.request("POST", "/chat_tokenize", {"messages": [messages[0], last]})
        assert answer.json["templated_text"].endswith("tool\nx<|im_end|>\n<|im_start|>assistant\n"), answer.body
    for calls in ([], {}, None):
        body = {"messages": [{"role": "assistant", "content": None, "tool_calls": calls}]}
        assert server.request("POST", "/chat_tokenize", body).status == 422


def test_chat_shapes(server: Server) -> None:
    answer = server.request("POST", "/chat_tokenize", b"{}")
    assert answer.status == 422
    assert answer.body.decode().endswith("missing field `messages` at line 1 column 2")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "x"}, "expected `role` of messages[0] to be a string"),
        ({"role": "user", "content": 5}, "expected `content` of messages[0] to be a string or an array of parts"),
        ({"role": "user", "content": None}, "expected `content` of messages[0] to be a string or an array of parts"),
        ({"role": "user"}, "expected `content` of messages[0] to be a string or an array of parts"),
    ],
)
def test_messages_of_a_wrong_form(server: Server, message: Any, text: str) -> None:
    answer = server.request("POST", "/chat_tokenize", {"messages": [message]})
    assert answer.status == 422
    assert text in answer.body.decode()


def test_vertex(server: Server) -> None:
    instances: list[Any] = [
        {"inputs": "hello", "parameters": {"max_new_tokens": 3, "seed": 1, "temperature": -1}},
        {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "seed": 3},
        {"inputs": "hello", "parameters": {"max_new_tokens": 3, "seed": 1}},
    ]
    first, _, third = server.request("POST", "/vertex", {"instances": instances}).json["predictions"]
    assert first == third, "of the parameters only max_new_tokens and seed count"
    sampled = {"max_new_tokens": 3, "seed": 1, "do_sample": True}
    whole = server.request("POST", "/generate", {"inputs": "hello", "parameters": sampled})
    assert whole.json["generated_text"] == first


def test_vertex_without_instances(server: Server) -> None:
    answer = server.request("POST", "/vertex", {"instances": []})
    assert answer.status == 422
    assert answer.json == {"error": "Input validation error", "error_type": "Input validation error"}


def test_vertex_names_the_instance(server: Server) -> None:
    answer = server.request("POST", "/vertex", {"instances": [{"inputs": "x"}, {"inputs": 1}]})
    assert answer.status == 422
    assert "instances[1].inputs: invalid type: integer `1`, expected a string" in answer.body.decode()
