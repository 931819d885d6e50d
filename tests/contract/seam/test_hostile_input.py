"""Bytes that no client of ours would send: always a sentence with a status below 500, never a look inside."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.seam.web import CHAT, GENERATES, PROMPT, TEXT, WebServer
from tests.fakes.engine import FakeEngine
from tests.support.frames import CUT
from tests.support.server import Answer

LEAKS = re.compile(rb"0x[0-9a-f]{6,}|Traceback|\.py\b|site-packages|/work/|/tmp/")
POSTS = (*GENERATES, "/generate_stream", "/predict", "/tokenize", "/chat_tokenize", "/vertex", "/ping")
RIGHT = {"Authorization": "Bearer Secret"}
FUZZ = settings(max_examples=80)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, -1, 0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "tool", "text", "function", "json_schema", "auto", "<|im_end|>", "\0", "/"])
)
KEYS = st.text(max_size=5) | st.sampled_from(
    ["role", "content", "type", "text", "name", "function", "tool_calls", "arguments", "id", "value", "schema",
     "json_schema", "properties", "include_usage", "url", "image_url", "tool_call_id", "strict", "parameters"]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
FIELDS = (
    "messages", "inputs", "prompt", "parameters", "stream", "temperature", "top_p", "top_k", "min_p", "typical_p", "n",
    "best_of", "stop", "seed", "tools", "tool_choice", "max_tokens", "max_completion_tokens", "logprobs",
    "top_logprobs", "logit_bias", "response_format", "stream_options", "requestType", "suffix", "echo", "instances",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "min_tokens", "ignore_eos", "chat_template_kwargs",
    "add_generation_prompt", "continue_final_message", "user", "metadata", "model", "stop_token_ids",
    "reasoning_effort",
    "bad_words", "parallel_tool_calls", "tool_prompt", "modalities", "audio", "functions", "function_call", "guideline",
)  # fmt: skip
PARAMETERS = (
    "temperature", "top_p", "top_k", "typical_p", "best_of", "stop", "seed", "max_new_tokens", "truncate", "details",
    "decoder_input_details", "top_n_tokens", "grammar", "adapter_id", "watermark", "do_sample", "return_full_text",
    "repetition_penalty", "frequency_penalty",
)  # fmt: skip


def check(answer: Answer) -> None:
    assert answer.status < 500, answer.body[:300]
    assert not LEAKS.search(answer.body), answer.body[:300]
    if answer.status >= 400:
        assert len(answer.body) < 2048, "SageMaker quotes no more of an error"
        assert len(answer.body) > 20


@FUZZ
@given(path=st.sampled_from(POSTS), body=VALUES)
def test_any_json_at_all(web: WebServer, path: str, body: Any) -> None:
    check(web.post(path, json.dumps(body).encode()))


@FUZZ
@given(path=st.sampled_from(POSTS), fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=4))
def test_a_good_body_with_odd_fields(web: WebServer, path: str, fields: dict[str, Any]) -> None:
    base = {"messages": CHAT["messages"]} if "chat" in path else {"prompt": "x"} if path.startswith("/v1") else TEXT
    check(web.post(path, json.dumps(base | fields).encode()))


@FUZZ
@given(path=st.sampled_from(["/generate", "/generate_stream", "/", "/invocations"]),
       parameters=st.dictionaries(st.sampled_from(PARAMETERS), VALUES, min_size=1, max_size=4))  # fmt: skip
def test_odd_parameters(web: WebServer, path: str, parameters: dict[str, Any]) -> None:
    check(web.post(path, json.dumps({"inputs": "x", "parameters": parameters}).encode()))


@FUZZ
@given(messages=st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3), stream=st.booleans())
def test_odd_messages(web: WebServer, messages: Any, stream: bool) -> None:
    for i, message in enumerate(messages):
        message.setdefault("role", ("user", "assistant", "system")[i % 3])
        message.setdefault("content", "x")
    check(web.post("/v1/chat/completions", json.dumps({"messages": messages, "stream": stream}).encode()))


@pytest.mark.parametrize("value", [2**63, 2**64, 10**30, -(10**30), 10**400, 1e308, -1, 0, 1.5])
def test_numbers_of_every_size_in_every_field(web: WebServer, engine: FakeEngine, value: float) -> None:
    for field in FIELDS:
        for path in ("/v1/chat/completions", "/v1/completions"):
            body = CHAT if "chat" in path else PROMPT
            check(web.post(path, body | {field: value}))
    for field in PARAMETERS:
        check(web.post("/generate", {"inputs": "x", "parameters": {field: value}}))
    assert web.post("/generate", TEXT).json == {"generated_text": "hello"}


BODIES = {
    "deep array": b"[" * 5000 + b"]" * 5000,
    "deep object": b'{"inputs":' * 5000 + b"1" + b"}" * 5000,
    "deep messages": b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}",
    "NaN": b'{"inputs":"x","prompt":"x","messages":[],"temperature":NaN,"parameters":{"temperature":NaN}}',
    "Infinity": b'{"inputs":"x","parameters":{"temperature":-Infinity}}',
    "1e999": b'{"inputs":"x","parameters":{"temperature":1e999}}',
    "lone surrogate": b'{"inputs":"\\ud800","prompt":"\\udfff","messages":[{"role":"user","content":"\\ud800"}]}',
    "raw surrogate": b'{"inputs":"\xed\xa0\x80"}',
    "UTF-16": '{"inputs":"x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"inputs":"x"}',
    "latin-1": '{"inputs":"é"}'.encode("latin-1"),
    "NUL": b"\0" * 30,
    "5,000 digits": b'{"inputs":"x","parameters":{"seed":' + b"9" * 5000 + b"}}",
    "null": b"null",
    "string": b'"inputs"',
    "two values": b'{"inputs":"x"} {"inputs":"y"}',
    "truncated": b'{"inputs":"x',
    "empty": b"",
    "white space": b" \n\t ",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_refused_everywhere(web: WebServer, engine: FakeEngine, body: bytes) -> None:
    for path in POSTS[:-1]:
        answer = web.post(path, body)
        check(answer)
        assert answer.status in {400, 422}, (path, answer.body[:200])
    assert not engine.requests


def test_bodies_that_are_odd_and_right(web: WebServer, engine: FakeEngine) -> None:
    assert web.post("/generate", b'{"inputs":"a","inputs":"b\\u0000c"}').status == 200
    assert engine.tokenizer.decode(engine.requests[-1].prompt_token_ids) == "b\0c"


def raw_post(body: bytes, *headers: str, path: str = "/generate") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


GOOD = json.dumps(TEXT).encode()
CHUNKED = "Transfer-Encoding: chunked"
FRAMES = {
    "bad chunk size": raw_post(b"zz\r\n" + GOOD, CHUNKED),
    "negative chunk size": raw_post(b"-5\r\n" + GOOD, CHUNKED),
    "chunk without its end": raw_post(b"5\r\n" + GOOD, CHUNKED),
    "length and chunks": raw_post(b"0\r\n\r\n", CHUNKED, "Content-Length: 4"),
    "two lengths": raw_post(GOOD, "Content-Length: 4", "Content-Length: 5"),
    "negative length": raw_post(GOOD, "Content-Length: -4"),
    "length that is no number": raw_post(GOOD, "Content-Length: four"),
    "unknown coding": raw_post(GOOD, "Transfer-Encoding: chunky"),
    "compressed": raw_post(GOOD, f"Content-Length: {len(GOOD)}", "Content-Encoding: gzip"),
    "NUL in a header": raw_post(GOOD, "X-A: a\0b"),
    "header without a name": raw_post(GOOD, ": x"),
    "a header of a megabyte": raw_post(GOOD, "X-A: " + "a" * 1_000_000),
    "two hundred headers": raw_post(GOOD, *(f"X-{i}: a" for i in range(200))),
    "a line of 9,000 characters": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "another method": b"BREW /generate HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", FRAMES.values(), ids=FRAMES)
def test_broken_frames(web: WebServer, engine: FakeEngine, sent: bytes) -> None:
    head, _, body = web.raw(sent, ends=True).partition(b"\r\n\r\n")
    # A head that is too long may be answered by closing alone.
    status = int(head.split(b" ")[1]) if head else 400
    assert 400 <= status < 500 or status == 501, head
    assert not LEAKS.search(body), body
    assert not engine.requests


def test_a_second_request_behind_a_broken_one_is_never_run(web: WebServer, engine: FakeEngine) -> None:
    hidden = raw_post(GOOD, f"Content-Length: {len(GOOD)}")
    for name, broken in FRAMES.items():
        if name not in {"another method", "compressed"}:  # these are refused, not broken
            assert web.raw(broken + hidden, ends=True).count(b"HTTP/1.1 ") <= 1, name
    assert not engine.requests


@pytest.mark.parametrize("sent", CUT.values(), ids=CUT)
def test_a_body_that_is_cut_is_not_taken_for_the_whole(web: WebServer, engine: FakeEngine, sent: bytes) -> None:
    assert web.raw(sent, ends=True).startswith(b"HTTP/1.1 400 ")
    assert not engine.requests


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/tokenize", "/invocations"])
def test_bodies_at_the_limit_and_over_it(guarded: WebServer, path: str) -> None:
    limit = 2000 if path == "/invocations" else 1000
    field = "messages" if path.startswith("/v1") else "inputs"
    for size in (limit, limit + 1):
        body = (f'{{"{field}":' + " " * 3000)[: size - 2].encode() + b"5}"
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        key = "Authorization: Bearer Secret"
        expected = 413 if size > limit else (400 if path.startswith("/v1") else 422)
        for sent in (
            raw_post(body, f"Content-Length: {size}", key, path=path),
            raw_post(chunks, CHUNKED, key, path=path),
        ):
            assert guarded.raw(sent, ends=True).startswith(b"HTTP/1.1 %d " % expected), size


def test_a_body_that_would_never_end_is_not_read_to_its_end(guarded: WebServer) -> None:
    endless = raw_post(b"", "Content-Length: 1000000000000", "Authorization: Bearer Secret")
    assert guarded.raw(endless, ends=True).startswith(b"HTTP/1.1 413 ")


def test_a_length_that_is_announced_over_the_limit_is_not_invited(guarded: WebServer) -> None:
    wanted = raw_post(b"", "Content-Length: 5000", "Expect: 100-continue", "Authorization: Bearer Secret")
    assert b" 413 " in guarded.raw(wanted, ends=True)


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-pickle", "multipart/form-data; boundary=x", "json"]
)
def test_other_media_types(web: WebServer, media_type: str) -> None:
    for path in POSTS[:-1]:
        answer = web.post(path, GOOD, Content_Type=media_type)
        check(answer)
        assert answer.status == 415


ODD_PATHS = ("//generate", "/generate/../ping", "/%2e%2e/etc/passwd", "/v1/chat//completions", "/v1/models/%00")
ODD_PATHS += ("/docs/../../etc/passwd", "/docs/%2e%2e/%2e%2e/app", "/docs/%00", "/v1/models/" + "x" * 3000)


@pytest.mark.parametrize("path", ODD_PATHS)
def test_odd_paths(web: WebServer, path: str) -> None:
    answer = web.request("GET", path)
    check(answer)
    assert answer.status in {404, 405}, answer.status


@pytest.mark.parametrize("attributes", ["a\x01b", "\x7f", "a\tb", "é", "x" * 1024])
def test_odd_custom_attributes(web: WebServer, attributes: str) -> None:
    header = f"X-Amzn-SageMaker-Custom-Attributes: {attributes}"
    with web.connect() as client:
        client.sendall(raw_post(GOOD, f"Content-Length: {len(GOOD)}", header, path="/invocations"))
        status = int(client.recv(4096).split(b" ")[1])
    assert status == 200 if attributes.isprintable() else status < 500


def test_deep_values_where_any_json_may_stand(web: WebServer) -> None:
    deep = "[" * 900 + "]" * 900
    for field in ("name", "tool_calls", "content", "arguments"):
        for path in ("/v1/chat/completions", "/chat_tokenize", "/invocations"):
            check(web.post(path, f'{{"messages":[{{"role":"user","content":"x","{field}":{deep}}}]}}'.encode()))
    for field in ("chat_template_kwargs", "tools", "response_format", "metadata"):
        body = f'{{"messages":[{{"role":"user","content":"x"}}],"{field}":{{"a":{deep}}}}}'
        check(web.post("/v1/chat/completions", body.encode()))


def test_of_a_key_that_is_there_twice_the_last_counts(web: WebServer, engine: FakeEngine) -> None:
    """Everywhere, and not in one place this one and in another that one."""
    engine.script = engine.says("x")
    twice = b'{"inputs": "first", "parameters": {"max_new_tokens": 5, "max_new_tokens": 7}, "inputs": "last"}'
    assert web.post("/generate", twice).status == 200
    (asked,) = engine.requests
    assert asked.prompt_token_ids == engine.token_ids("last")
    assert asked.sampling.max_tokens == 7
