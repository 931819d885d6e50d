"""/tokenize, /chat_tokenize and /vertex (tgi-http-api.md 1.4, 1.5)."""

from __future__ import annotations

from typing import Any

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
    assert chat_tokenize(server, ("user", "hi"), ("assistant", "I am"))["templated_text"].endswith("I am")


def test_chat_shapes(server: Server) -> None:
    answer = server.request("POST", "/chat_tokenize", b"{}")
    assert answer.status == 422
    assert answer.body.decode().endswith("missing field `messages` at line 1 column 2")


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
