"""Clients that go away, and answers that are over: the engine hears of a request once more, or never."""

from __future__ import annotations

import threading

import pytest

from handler.seam.protocol import FinishReason
from tests.contract.seam.web import CHAT, GENERATES, STREAMS, TEXT, WebServer
from tests.fakes.engine import FakeEngine, output

NEVER = threading.Event()


def ids(engine: FakeEngine) -> list[str]:
    return [request.request_id for request in engine.requests]


def settle(web: WebServer, engine: FakeEngine) -> None:
    """Both workers have sent whatever they had to send: their sockets keep the order."""
    engine.script = engine.says("x")
    for worker in web.workers():
        with web.alone(worker):
            assert web.post("/generate", TEXT).status == 200


@pytest.mark.parametrize("path", sorted(STREAMS))
def test_leaving_a_stream_aborts_it_once(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = lambda request: [output(request, engine.token_ids("ab")), NEVER]
    streams = [web.open(path, STREAMS[path]) for _ in range(6)]
    assert all(stream.event() for stream in streams)
    for stream in streams:
        stream.close()
    wanted = sorted(ids(engine))
    web.wait(lambda: len(engine.aborts) == 6)
    settle(web, engine)
    assert sorted(engine.aborts) == wanted


def test_leaving_while_tokens_stream_by(web: WebServer, engine: FakeEngine) -> None:
    """Frames still come for a request that was left, as from an engine that has not yet read the abort."""
    engine.heeds_aborts = False
    engine.script = lambda request: (output(request, engine.token_ids("a")) for _ in range(20_000))
    stream = web.open("/v1/chat/completions", STREAMS["/v1/chat/completions"])
    assert stream.event()
    stream.close()
    web.wait(lambda: len(engine.aborts) == 1)
    left = ids(engine)
    settle(web, engine)
    assert engine.aborts == left


@pytest.mark.parametrize("path", sorted(GENERATES.keys() | STREAMS.keys()))
def test_leaving_before_the_first_token_aborts_once(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = lambda _request: [NEVER]
    waiting = [web.open(path, (GENERATES | STREAMS)[path]) for _ in range(4)]
    web.wait(lambda: len(engine.requests) == 4)
    for each in waiting:
        each.close()
    wanted = sorted(ids(engine))
    web.wait(lambda: len(engine.aborts) == 4)
    settle(web, engine)
    assert sorted(engine.aborts) == wanted


def test_leaving_a_whole_answer_midway_aborts_every_choice(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [output(request, engine.token_ids("ab")), NEVER]
    waiting = web.open("/v1/chat/completions", CHAT | {"n": 2, "temperature": 1})
    web.wait(lambda: len(engine.requests) == 2)
    waiting.close()
    wanted = sorted(ids(engine))
    web.wait(lambda: len(engine.aborts) == 2)
    settle(web, engine)
    assert sorted(engine.aborts) == wanted


def test_one_client_leaving_leaves_the_others(web: WebServer, engine: FakeEngine) -> None:
    goes_on = threading.Event()
    engine.script = lambda request: [output(request, engine.token_ids("a")), goes_on, *engine.says("b")(request)]
    streams = [web.open("/generate_stream", STREAMS["/generate_stream"]) for _ in range(8)]
    assert all(stream.event() for stream in streams)
    for stream in streams[::2]:
        stream.close()
    web.wait(lambda: len(engine.aborts) == 4)
    goes_on.set()
    assert all('"generated_text":"ab"' in stream.rest()[-1] for stream in streams[1::2])


@pytest.mark.parametrize("path", sorted(GENERATES.keys() | STREAMS.keys()))
def test_an_answer_that_ended_is_not_aborted(web: WebServer, engine: FakeEngine, path: str) -> None:
    for _ in range(4):
        assert web.post(path, (GENERATES | STREAMS)[path]).status == 200
    settle(web, engine)
    assert engine.aborts == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_aborts_once(web: WebServer, engine: FakeEngine, stream: bool) -> None:
    engine.script = lambda request: [
        output(request, engine.token_ids("ab")),
        output(request, engine.token_ids("cd")),
        NEVER,
    ]
    answer = web.post("/v1/chat/completions", CHAT | {"stop": ["bc"], "stream": stream})
    assert answer.status == 200
    assert b'"finish_reason":"stop"' in answer.body
    wanted = ids(engine)
    web.wait(lambda: bool(engine.aborts))
    settle(web, engine)
    assert engine.aborts == wanted


def test_a_stop_string_in_the_last_message_aborts_nothing(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda request: [output(request, engine.token_ids("abc"), FinishReason.LENGTH)]
    assert web.post("/generate", {"inputs": "x", "parameters": {"stop": ["bc"]}}).json == {"generated_text": "abc"}
    settle(web, engine)
    assert engine.aborts == []
