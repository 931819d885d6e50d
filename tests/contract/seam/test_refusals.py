"""An engine that says no, before, while and after it says anything else: each request ends once, in its dialect."""

from __future__ import annotations

import json
import threading
from typing import Any

import openai
import pytest

from handler.seam.protocol import ErrorCode, Failed, FinishReason, Rejected
from tests.contract.seam.web import CHAT, GENERATES, STREAMS, TEXT, WebServer, events
from tests.fakes.engine import CONTEXT, IN_FLIGHT, LONG, FakeEngine, output

# Status at OpenAI's routes, status and error type at TGI's.
MEANINGS = {
    ErrorCode.OVERLOADED: (429, 429, "overloaded"),
    ErrorCode.DRAINING: (503, 503, "unhealthy"),
    ErrorCode.INVALID: (400, 422, "validation"),
    ErrorCode.DEADLINE: (504, 504, "timeout"),
    ErrorCode.NUMERICS: (500, 424, "generation"),
    ErrorCode.OUT_OF_MEMORY: (503, 503, "overloaded"),
    ErrorCode.INTERNAL: (500, 424, "generation"),
    ErrorCode.ENGINE_DEAD: (503, 503, "unhealthy"),
    ErrorCode.UNKNOWN_ADAPTER: (404, 422, "validation"),
}


@pytest.mark.parametrize("kind", [Rejected, Failed])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_request_that_never_began_has_its_status(
    web: WebServer, engine: FakeEngine, code: ErrorCode, stream: bool, kind: Any
) -> None:
    engine.script = lambda request: [kind(request.request_id, code, "the engine's own words")]
    openai_status, tgi_status, tgi_type = MEANINGS[code]
    answer = web.post("/v1/chat/completions", CHAT | {"stream": stream})
    assert answer.status == openai_status
    assert "the engine's own words" in answer.json["error"]["message"]
    other = web.post("/", TEXT | {"stream": stream})
    assert other.status == tgi_status
    assert other.json["error_type"] == tgi_type
    for each in (answer, other):
        assert ("Retry-After" in each.headers) == (each.status in {429, 503})
    assert not engine.aborts


@pytest.mark.parametrize("path", sorted(STREAMS))
def test_a_stream_that_has_begun_ends_with_one_error_event(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = lambda request: [
        output(request, engine.token_ids("ab")),
        Failed(request.request_id, ErrorCode.NUMERICS, "not a number"),
        output(request, engine.token_ids("late"), FinishReason.LENGTH),
    ]
    answer = web.post(path, STREAMS[path])
    assert answer.status == 200
    *begun, last = [json.loads(each) for each in events(answer.body)]
    assert begun
    assert not [event for event in begun if event.get("error")]
    if path.startswith("/v1"):
        assert last["error"]["code"] == "generation_failed"
    else:
        assert last == {"error": "Request failed during generation: not a number", "error_type": "generation"}


@pytest.mark.parametrize("path", sorted(GENERATES))
def test_a_whole_answer_that_had_begun_is_an_error(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = lambda request: [
        output(request, engine.token_ids("secret")),
        Failed(request.request_id, ErrorCode.INTERNAL, "generation failed"),
    ]
    answer = web.post(path, GENERATES[path])
    assert answer.status == (500 if b"code" in answer.body else 424)
    assert b"secret" not in answer.body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/invocations"])
def test_too_many_waiting_tokens_refuse_before_the_engine_is_asked(
    web: WebServer, engine: FakeEngine, path: str
) -> None:
    engine.board["waiting_tokens"] = CONTEXT * 64
    answer = web.post(path, GENERATES[path])
    assert answer.status == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 30
    assert not engine.requests
    engine.board["waiting_tokens"] -= 1
    assert web.post(path, GENERATES[path]).status == 200
    engine.board["waiting_tokens"] = 0


def test_places_are_counted_over_all_workers_and_come_back(web: WebServer, engine: FakeEngine) -> None:
    never = threading.Event()
    engine.script = lambda _request: [never]
    streams = [web.open(path, STREAMS[path]) for path in [*STREAMS] * 24 + ["/generate_stream"] * 3]
    web.wait(lambda: len(engine.requests) == IN_FLIGHT - 1)
    pair = web.post("/v1/chat/completions", CHAT | {"n": 2, "temperature": 1})
    list_of_two = web.post("/v1/completions", {"prompt": ["a", "b"]})
    assert (pair.status, list_of_two.status) == (429, 429)
    streams.append(web.open("/generate_stream", TEXT))
    web.wait(lambda: len(engine.requests) == IN_FLIGHT)
    assert all(web.post(path, GENERATES[path]).status == 429 for path in GENERATES for _ in range(4))
    assert len(engine.requests) == IN_FLIGHT
    for stream in streams:
        stream.close()
    web.wait(lambda: len(engine.aborts) == IN_FLIGHT)
    engine.script = engine.says("hello")
    web.wait(lambda: web.post("/generate", TEXT).status == 200)


def test_a_client_that_reads_slowly_holds_no_place(one_place: WebServer) -> None:
    """Its answer has been made; nothing runs for it any more."""
    engine = one_place.engine
    engine.script = engine.says([engine.tokenizer.token_to_id(LONG)] * 100)
    with one_place.send("/generate", TEXT) as client:
        assert client.recv(8).startswith(b"HTTP/1.1")
        engine.script = engine.says("hello")
        assert one_place.post("/generate", TEXT).json == {"generated_text": "hello"}


def test_an_engine_that_forgets_a_request_does_not_keep_its_client(guarded: WebServer) -> None:
    """The engine owes an end at the deadline. Where it never comes the web side ends the request, and aborts it."""
    guarded.engine.reset()
    never = threading.Event()
    guarded.engine.script = lambda _request: [never]
    answer = guarded.post("/generate", TEXT, Authorization="Bearer Secret")
    assert (answer.status, answer.json["error_type"]) == (504, "timeout")
    guarded.wait(lambda: guarded.engine.aborts == [guarded.engine.requests[0].request_id])


def test_openais_client_understands_every_end(web: WebServer, engine: FakeEngine) -> None:
    client = openai.OpenAI(base_url=f"{web.url}/v1", api_key="-", max_retries=0, timeout=30)

    def ask(*, stream: bool) -> Any:
        return client.chat.completions.create(model="m", messages=CHAT["messages"], stream=stream)

    engine.script = lambda request: [Rejected(request.request_id, ErrorCode.OVERLOADED, "full")]
    for stream in (True, False):
        with pytest.raises(openai.RateLimitError):
            ask(stream=stream)
    engine.script = lambda request: [
        output(request, engine.token_ids("ab")),
        Failed(request.request_id, ErrorCode.INTERNAL, "generation failed"),
    ]
    with pytest.raises(openai.InternalServerError):
        ask(stream=False)
    chunks = ask(stream=True)
    assert next(chunks).choices[0].delta.role == "assistant"
    assert next(chunks).choices[0].delta.content == "ab"
    with pytest.raises(openai.APIError, match="generation failed"):
        next(chunks)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/nowhere", 404, None),
        ("GET", "/nowhere", 404, None),
        ("DELETE", "/v1/chat/completions", 405, "POST"),
        ("PUT", "/generate", 405, "POST"),
        ("DELETE", "/", 405, "GET"),
        ("GET", "/invocations", 405, "POST"),
    ],
)
def test_routes_and_methods_there_are_not(web: WebServer, method: str, path: str, status: int, allow: Any) -> None:
    answer = web.request(method, path)
    assert answer.status == status
    assert (allow in answer.headers["Allow"].split(", ")) if allow else ("Allow" not in answer.headers)
    error = answer.json["error"]
    assert isinstance(error, dict) == path.startswith("/v1")
