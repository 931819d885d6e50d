"""POST /invocations as SageMaker calls it (developer guide, "Custom Inference Code with Hosting Services")."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.support.server import Server

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
TEXT = {"inputs": "hello", "parameters": {"max_new_tokens": 2}}
PROMPT = {"prompt": "hello", "max_tokens": 2}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
DECISION = {"input": "hi", "questions": [{"type": "predicate", "instructions": "Is it?"}]}
SYSTEM_ONE = {"state": "hi", "questions": {"q": {"type": "noul"}}}


def raw_exchange(server: Server, head: str, body: bytes) -> bytes:
    """Everything the server sends on one connection, as it stands on the wire."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        start = f"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{start}{head}\r\n".encode() + body)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (TEXT, "generate"),
        (CHAT, "chat"),
        (PROMPT, "completion"),
        (TEXT | CHAT | PROMPT, "generate"),
        (PROMPT | {"messages": None, "inputs": None}, "completion"),
        (DECISION, "decision"),
        (SYSTEM_ONE | {"prompt": None}, "systemone"),
        ({"questions": 5}, None),
        ({"inputs": None}, None),
        ({"inputs": 5}, None),
        ({"colour": "red"}, None),
    ],
)
def test_the_shape_of_the_body_chooses_the_dialect(tiny_server: Server, body: Any, shape: str | None) -> None:
    answer = tiny_server.request("POST", "/invocations", body)
    if shape == "generate":
        assert list(answer.json[0]) == ["generated_text"]
    elif shape == "chat":
        assert answer.json["object"] == "chat.completion"
    elif shape == "completion":
        assert answer.json["object"] == "text_completion"
    elif shape == "decision":
        assert [each["type"] for each in answer.json["answers"]] == ["predicate"]
    elif shape == "systemone":
        assert answer.json["answers"]["q"]["type"] == "noul"
    else:
        assert answer.status in {400, 422}


@pytest.mark.parametrize("path", ["/invocations", "/", "/predict"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_list_of_prompts_is_told_where_to_go(tiny_server: Server, path: str, stream: bool) -> None:
    """Pipelines and LMI take it, TGI does not; the way the sentence names works."""
    answer = tiny_server.request("POST", path, {"inputs": ["hello", "hi"], "stream": stream})
    assert (answer.status, answer.json["error_type"]) == (422, "validation")
    assert answer.json["error"].startswith("Input validation error: `inputs` must be one string. For several prompts")
    told = tiny_server.request("POST", "/invocations", {"prompt": ["hello", "hi"], "max_tokens": 2})
    assert [choice["index"] for choice in told.json["choices"]] == [0, 1]


def test_no_dialect_at_all_has_tgis_words(tiny_server: Server) -> None:
    answer = tiny_server.request("POST", "/invocations", {"colour": "red"})
    assert answer.body.decode() == (
        "Failed to deserialize the JSON body into the target type: "
        "data did not match any variant of untagged enum SagemakerRequest"
    )


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        (CHAT | {"n": 0}, 400, "n"),
        (PROMPT | {"temperature": -1}, 400, "temperature"),
        ({"inputs": "x", "parameters": {"top_k": 0}, "messages": []}, 422, None),
    ],
)
def test_errors_are_those_of_the_dialect(tiny_server: Server, body: Any, status: int, param: str | None) -> None:
    for stream in (False, True):
        answer = tiny_server.request("POST", "/invocations", body | {"stream": stream})
        assert answer.status == status
        if param is None:
            sentence = "Input validation error: `top_k` must be strictly positive"
            assert answer.json == {"error": sentence, "error_type": "validation"}
        else:
            assert set(answer.json["error"]) == {"message", "type", "param", "code"}
            assert answer.json["error"]["param"] == param


@pytest.mark.parametrize("media_type", [None, "application/octet-stream", "binary/octet-stream", "*/*"])
def test_a_body_that_is_not_said_to_be_json(tiny_server: Server, media_type: str | None) -> None:
    head = f"Content-Type: {media_type}\r\n" if media_type else ""
    sent = raw_exchange(tiny_server, head, json.dumps(TEXT).encode())
    assert sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: " in sent


def test_another_media_type_is_refused(tiny_server: Server) -> None:
    assert raw_exchange(tiny_server, "Content-Type: text/csv\r\n", b"1,2").startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "*/*"])
@pytest.mark.parametrize("stream", [True, False])
def test_the_body_alone_decides_about_streaming(tiny_server: Server, accept: str, stream: bool) -> None:
    for body in (TEXT, CHAT):
        answer = tiny_server.request("POST", "/invocations", body | {"stream": stream}, Accept=accept)
        expected = "text/event-stream" if stream else "application/json"
        assert answer.headers["Content-Type"].split(";")[0] == expected
        assert ("Content-Length" in answer.headers) == (not stream)


@pytest.mark.parametrize("body", [TEXT, CHAT, PROMPT])
def test_one_event_is_one_write_and_ends_in_a_newline(tiny_server: Server, body: dict[str, Any]) -> None:
    sent = raw_exchange(tiny_server, "Content-Type: application/json\r\n", json.dumps(body | {"stream": True}).encode())
    head, _, rest = sent.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert chunks.pop() == b""
    assert len(chunks) >= 2
    for chunk in chunks:
        assert chunk.startswith(b"data: ")
        assert chunk.endswith(b"\n\n")
        assert chunk.count(b"\n") == 2


@pytest.mark.parametrize("body", [TEXT, CHAT, TEXT | {"stream": True}, {"colour": "red"}])
def test_custom_attributes_are_echoed(tiny_server: Server, body: Any) -> None:
    answer = tiny_server.request("POST", "/invocations", body, **{ATTRIBUTES: "trace=abc,accept_eula=true"})
    assert answer.headers[ATTRIBUTES] == "trace=abc,accept_eula=true"
    assert ATTRIBUTES not in tiny_server.request("POST", "/invocations", body).headers


@pytest.mark.parametrize(
    ("route", "body", "key"),
    [
        ("/v1/chat/completions", CHAT, "choices"),
        ("/v1/completions", PROMPT, "choices"),
        ("/generate", TEXT, "generated_text"),
        ("/chat_tokenize", CHAT, "templated_text"),
    ],
)
def test_a_listed_route_is_taken(tiny_server: Server, route: str, body: Any, key: str) -> None:
    answer = tiny_server.request("POST", "/invocations", body, **{ATTRIBUTES: f"a=b,route={route}"})
    assert key in answer.json


@pytest.mark.parametrize("route", ["/metrics", "/", "/invocations", "/v1/models", "/ping", "//generate", "/generate/"])
def test_any_other_route_is_refused(tiny_server: Server, route: str) -> None:
    answer = tiny_server.request("POST", "/invocations", TEXT, **{ATTRIBUTES: f"route={route}"})
    assert answer.status == 422
    assert "must be one of" in answer.json["error"]
    assert answer.headers[ATTRIBUTES] == f"route={route}"


def test_a_body_of_25_megabytes_is_read(tiny_server: Server) -> None:
    body = {"inputs": "x" * 25_000_000, "parameters": {"truncate": 1, "max_new_tokens": 0}}
    answer = tiny_server.request("POST", "/invocations", body)
    assert answer.status == 422, "read to its end and refused for its parameters"
    assert "max_new_tokens" in answer.json["error"]
    assert tiny_server.request("POST", "/invocations", b" " * 26_214_401).status == 413


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ping(tiny_server: Server, method: str) -> None:
    answer = tiny_server.request(method, "/ping", b"" if method == "POST" else None)
    assert (answer.status, answer.body) == (200, b"")


def test_headers_of_the_platform_are_ignored(tiny_server: Server) -> None:
    headers = {"X-Amzn-SageMaker-Target-Model": "m", "X-Amzn-SageMaker-Inference-Id": "1", "X-Unknown": "2"}
    assert tiny_server.request("POST", "/invocations", TEXT, **headers).status == 200
