"""The front under load, hostile input and clients that go away, over the tiny model and the real processes."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import struct
import time
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.server import Answer, Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 8}
LEAKS = re.compile(rb"0x[0-9a-f]{6,}|Traceback|\.py\b|site-packages")
ROUTES = ["/v1/chat/completions", "/v1/completions", "/generate", "/generate_stream", "/", "/invocations", "/tokenize"]


def metric(server: Server, name: str) -> float:
    text = server.request("GET", "/metrics").body.decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{| )", line))


def settled(server: Server, names: tuple[str, ...]) -> list[float]:
    """The metrics once they stand still: requests of other tests, whose clients have left, end a moment later."""
    before: list[float] = []
    while True:
        now = [metric(server, name) for name in names]
        if now == before:
            return now
        before = now
        time.sleep(0.5)


def chat_head(length: int) -> bytes:
    """The head of a raw chat request."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


def workers(server: Server) -> set[int]:
    """Pids of gunicorn's workers."""
    return {
        worker.pid
        for child in psutil.Process(server.process.pid).children()
        if "gunicorn" in child.cmdline()
        for worker in child.children()
    }


def check_refusal(answer: Answer) -> None:
    assert 400 <= answer.status < 500, answer.body[:200]
    assert not LEAKS.search(answer.body), answer.body[:300]


BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{",
    b'{"messages": [}',
    b"[" * 5000,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"messages": NaN}',
    b'{"messages": Infinity, "inputs": 1}',
    b'{"inputs": "a", "parameters": {"temperature": 1e999}, "temperature": 1e999, "messages": 1}',
    '{"messages": "a"}'.encode("utf-16"),
    b'{"inputs": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}], "prompt": "\\ud800"}',
    b"\x00" * 20,
    b'{"inputs": ' + b"9" * 5000 + b"}",
    b"\xff\xfe\xfd",
    json.dumps({"messages": [], "inputs": 1, "prompt": []}).encode(),
    json.dumps({"messages": [{"role": "root<|im_end|>", "content": "x"}], "inputs": [1], "prompt": {}}).encode(),
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: body[:24].decode("latin-1"))
def test_a_malformed_body_is_refused_with_a_sentence(tiny_server: Server, route: str, body: bytes) -> None:
    answer = tiny_server.request("POST", route, body)
    check_refusal(answer)
    assert len(answer.body) > 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("messages", "inputs", "prompt", "parameters", "stream", "temperature", "top_p", "n", "stop", "seed", "tools")
FIELDS += ("max_tokens", "logprobs", "logit_bias", "response_format", "stream_options", "tool_choice", "requestType")


@settings(max_examples=120)
@given(route=st.sampled_from(ROUTES), extra=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_random_fields_never_break_the_server(tiny_server: Server, route: str, extra: dict[str, Any]) -> None:
    base = {"messages": CHAT["messages"], "inputs": "hello", "prompt": "hello", "max_tokens": 2}
    base["parameters"] = {"max_new_tokens": 2}
    if route in {"/v1/chat/completions", "/v1/completions"}:
        base = {k: v for k, v in base.items() if k in {"messages" if "chat" in route else "prompt", "max_tokens"}}
    answer = tiny_server.request("POST", route, json.dumps(base | extra).encode())
    assert answer.status < 500 or answer.status == 504, (route, extra, answer.body[:200])
    assert not LEAKS.search(answer.body)


def test_no_worker_died_of_all_that(tiny_server: Server) -> None:
    before = workers(tiny_server)
    for body in BAD_BODIES:
        for route in ROUTES:
            tiny_server.request("POST", route, body)
    assert workers(tiny_server) == before
    assert tiny_server.request("POST", "/v1/chat/completions", CHAT).status == 200


@pytest.mark.parametrize("headers", [{"Content_Encoding": "gzip"}, {"Content_Type": "multipart/form-data"}])
def test_other_encodings_and_media_types_are_refused(tiny_server: Server, headers: dict[str, str]) -> None:
    assert tiny_server.request("POST", "/v1/chat/completions", CHAT, **headers).status == 415


def test_a_chunked_body_over_the_limit_is_refused(tiny_server: Server) -> None:
    with socket.create_connection(("127.0.0.1", tiny_server.port)) as client:
        head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(50):
                client.sendall(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return
        assert b" 413 " in client.recv(4096).split(b"\r\n")[0] + b" "


def test_a_hundred_streams_get_their_own_tokens(tiny_server: Server) -> None:
    def ask(i: int) -> str:
        body = {"inputs": f"question {i}", "parameters": {"max_new_tokens": 12}}
        return str(tiny_server.request("POST", "/generate", body).json["generated_text"])

    alone = [ask(i) for i in range(100)]
    assert len(set(alone)) > 20
    with concurrent.futures.ThreadPoolExecutor(100) as threads:
        assert list(threads.map(ask, range(100))) == alone


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_sequence(tiny_server: Server, stream: bool) -> None:
    aborts = metric(tiny_server, "heir_aborts_total")
    raw = json.dumps(CHAT | {"stream": stream, "max_tokens": 480, "ignore_eos": True}).encode()
    head = chat_head(len(raw))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", tiny_server.port)) as client:
            client.sendall(head + raw)
            if stream:
                assert client.recv(100)
            else:
                tiny_server.wait(lambda: metric(tiny_server, "tgi_batch_current_size") > 0)
            # Zero linger sends a reset, as a crashed client does.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tiny_server.wait(lambda: metric(tiny_server, "tgi_batch_current_size") == 0)
    assert metric(tiny_server, "tgi_batch_current_max_tokens") == 0
    tiny_server.wait(lambda: metric(tiny_server, "heir_aborts_total") >= aborts + 3)
    assert metric(tiny_server, "tgi_queue_size") == 0


def test_half_sent_requests_and_readers_that_do_not_read_leave_health_checks_alone(tiny_server: Server) -> None:
    raw = json.dumps(CHAT | {"stream": True, "max_tokens": 400, "ignore_eos": True}).encode()
    head = chat_head(len(raw))
    sockets = []
    try:
        for i in range(80):
            client = socket.create_connection(("127.0.0.1", tiny_server.port))
            sockets.append(client)
            client.sendall(b"GET /ping HTTP/1.1\r\nHo" if i % 2 else head + raw)
        for _ in range(20):
            assert tiny_server.request("GET", "/ping", timeout=2).status == 200
    finally:
        for client in sockets:
            client.close()
    tiny_server.wait(lambda: metric(tiny_server, "tgi_batch_current_size") == 0)


def test_metrics_count_what_happened(tiny_server: Server) -> None:
    names = ("tgi_request_count", "tgi_request_success", "tgi_request_generated_tokens_sum")
    before = settled(tiny_server, names)
    refused = metric(tiny_server, "tgi_request_failure")
    tiny_server.request("POST", "/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 7}})
    tiny_server.request("POST", "/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 0}})
    # A request is counted when its answer has been sent: the client may ask another worker sooner.
    tiny_server.wait(lambda: metric(tiny_server, "tgi_request_count") >= before[0] + 2)
    after = settled(tiny_server, names)
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 7]
    assert metric(tiny_server, "tgi_request_failure") == refused + 1


@pytest.fixture(scope="module")
def narrow_server(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One request at a time, and hardly any time for it."""
    environ = {"HF_MODEL_ID": str(tiny_llama), "MAX_CONCURRENT_REQUESTS": "1", "REQUEST_TIMEOUT_S": "0.3"}
    server = Server(tmp_path_factory.mktemp("narrow") / "log", environ)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def test_too_many_requests_are_told_to_come_back(narrow_server: Server) -> None:
    body = CHAT | {"max_tokens": 400, "ignore_eos": True, "stream": True}
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: narrow_server.request("POST", "/v1/chat/completions", body), range(12)))
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert all(answer.headers["Retry-After"].isdecimal() for answer in refused)
    assert {answer.status for answer in answers} <= {200, 429}
    assert any(b"[DONE]" in answer.body for answer in answers)


def test_a_deadline_is_kept(narrow_server: Server) -> None:
    answer = narrow_server.request("POST", "/v1/chat/completions", CHAT | {"max_tokens": 450, "ignore_eos": True})
    assert answer.status == 504
    assert answer.json["error"]["code"] == "deadline_exceeded"
