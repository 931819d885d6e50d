"""The front under load, hostile input and clients that go away, over the tiny model and the real processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from container.web.client_socket import HEAD_S
from tests.support.server import Answer, Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 8}
LEAKS = re.compile(rb"0x[0-9a-f]{6,}|Traceback|\.py\b|site-packages")
ROUTES = ["/v1/chat/completions", "/v1/completions", "/generate", "/generate_stream", "/", "/invocations", "/tokenize"]


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
    before = tiny_server.workers()
    for body in BAD_BODIES:
        for route in ROUTES:
            tiny_server.request("POST", route, body)
    assert tiny_server.workers() == before
    assert tiny_server.request("POST", "/v1/chat/completions", CHAT).status == 200


@pytest.mark.parametrize("headers", [{"Content_Encoding": "gzip"}, {"Content_Type": "multipart/form-data"}])
def test_other_encodings_and_media_types_are_refused(tiny_server: Server, headers: dict[str, str]) -> None:
    assert tiny_server.request("POST", "/v1/chat/completions", CHAT, **headers).status == 415


def test_a_hundred_streams_get_their_own_tokens(tiny_server: Server) -> None:
    def ask(i: int) -> str:
        body = {"inputs": f"question {i}", "parameters": {"max_new_tokens": 12}}
        return str(tiny_server.request("POST", "/generate", body).json["generated_text"])

    tiny_server.settle_idle()  # the places of clients that have left are free
    alone = [ask(i) for i in range(100)]
    assert len(set(alone)) > 20
    with concurrent.futures.ThreadPoolExecutor(100) as threads:
        assert list(threads.map(ask, range(100))) == alone


def test_half_sent_requests_and_readers_that_do_not_read_leave_health_checks_alone(tiny_server: Server) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(40):
            half = clients.enter_context(socket.create_connection(("127.0.0.1", tiny_server.port)))
            half.sendall(b"GET /ping HTTP/1.1\r\nHo")
            body = CHAT | {"stream": True, "max_tokens": 400, "ignore_eos": True}
            clients.enter_context(tiny_server.send("/v1/chat/completions", body))
        for _ in range(20):
            # Later, the server would have sent the half ones away.
            assert tiny_server.request("GET", "/ping", timeout=HEAD_S - 1).status == 200
        tiny_server.settle()
    tiny_server.settle_idle()


@pytest.fixture(scope="module")
def narrow_server(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One request at a time, and hardly any time for it."""
    environ = {"HF_MODEL_ID": str(tiny_llama), "MAX_CONCURRENT_REQUESTS": "1", "REQUEST_TIMEOUT_S": "0.05"}
    server = Server(tmp_path_factory.mktemp("narrow") / "log", environ)
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def test_too_many_requests_are_told_to_come_back(narrow_server: Server) -> None:
    body = CHAT | {"max_tokens": 400, "ignore_eos": True, "stream": True}
    refused: list[Answer] = []

    def ask(_: int) -> Answer:
        return narrow_server.request("POST", "/v1/chat/completions", body)

    for _ in range(20):  # a busy machine may let them come one after the other
        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            answers = list(
                threads.map(lambda _: narrow_server.request("POST", "/v1/chat/completions", body), range(12))
            )
        # 504: no token came in time.
        assert {answer.status for answer in answers} <= {200, 429, 504}
        assert all(b"[DONE]" in answer.body for answer in answers if answer.status == 200)
        refused += [answer for answer in answers if answer.status == 429]
        if refused and len(refused) < len(answers):
            break
    assert refused
    assert all(answer.headers["Retry-After"].isdecimal() for answer in refused)


def test_a_deadline_is_kept(narrow_server: Server) -> None:
    answer = narrow_server.request("POST", "/v1/chat/completions", CHAT | {"max_tokens": 450, "ignore_eos": True})
    if answer.status == 504:  # no token came in time
        assert answer.json["error"]["code"] == "deadline_exceeded"
        return
    assert (answer.status, answer.headers["x-timed-out"]) == (200, "true")
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] < 450
