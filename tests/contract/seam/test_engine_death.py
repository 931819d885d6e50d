"""Engines that die, hang, come back and talk too late: nothing hangs, nothing reaches a stranger."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from handler.seam.protocol import ErrorCode, Failed, FinishReason, GenerateRequest, Rejected, StepOutput, encode
from handler.seam.status import Phase
from tests.contract.seam.web import CHAT, GENERATES, STREAMS, TEXT, WebServer, events
from tests.fakes.engine import FakeEngine, output

NEVER = threading.Event()


def begin_and_hang(engine: FakeEngine) -> Any:
    return lambda request: [output(request, engine.token_ids("ab")), NEVER]


@pytest.mark.parametrize("path", sorted(STREAMS))
def test_a_stream_ends_with_an_error_event(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.script = begin_and_hang(engine)
    streams = [web.open(path, STREAMS[path]) for _ in range(4)]
    assert all(stream.event() for stream in streams)
    engine.die()
    for stream in streams:
        last = json.loads(stream.rest()[-1])
        kind = last["error"]["code"] if path.startswith("/v1") else last["error_type"]
        assert kind in {"not_ready", "unhealthy"}


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("path", sorted(GENERATES))
def test_whole_answers_are_503(web: WebServer, engine: FakeEngine, path: str, begun: bool) -> None:
    engine.script = begin_and_hang(engine) if begun else lambda _request: [NEVER]
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(web.post, path, GENERATES[path]) for _ in range(4)]
        web.wait(lambda: len(engine.requests) == 4)
        engine.die()
        found = [answer.result() for answer in answers]
    assert {answer.status for answer in found} == {503}
    assert all(answer.headers["Retry-After"] for answer in found)


def test_a_stream_that_waited_for_its_first_token_is_503(web: WebServer, engine: FakeEngine) -> None:
    engine.script = lambda _request: [NEVER]
    stream = web.open("/v1/chat/completions", STREAMS["/v1/chat/completions"])
    web.wait(lambda: bool(engine.requests))
    engine.die()
    assert stream.response.status == 503


def test_the_next_engine_is_found(web: WebServer, engine: FakeEngine) -> None:
    for _ in range(3):
        engine.die()
        assert web.ping() == 503
        assert web.post("/generate", TEXT).status == 503
        engine.start()
        assert web.post("/generate", TEXT).json == {"generated_text": "hello"}
        assert web.post("/v1/chat/completions", CHAT).status == 200


UNUSABLE = "the model's card cannot be used"


def shows(web: WebServer, model: bytes) -> bool:
    """Whether every worker has read the card of that model."""
    for worker in web.workers():
        with web.alone(worker):
            if model not in web.request("GET", "/info").body:
                return False
    return True


def test_the_next_engines_card_is_read_also_after_one_that_cannot_be(web: WebServer, engine: FakeEngine) -> None:
    good, unusable = engine.run_dir.card.read_bytes(), web.log.read_text().count(UNUSABLE)
    try:
        for number, card in ((1, good[:-20]), (2, b""), (2, good.replace(b"fake/model", b"next/model"))):
            engine.die()
            engine.run_dir.card.write_bytes(card)
            engine.start()
            assert web.post("/generate", TEXT).status in {200, 503}
            web.wait(lambda: web.log.read_text().count(UNUSABLE) >= unusable + 2 * number)  # noqa: B023
        web.wait(lambda: shows(web, b"next/model"))
    finally:
        engine.die()
        engine.run_dir.card.write_bytes(good)
        engine.start()
        web.wait(lambda: shows(web, b"fake/model"))


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_is_replaced_within_a_blink(web: WebServer, engine: FakeEngine, stream: bool) -> None:
    """New requests bring a worker to the new engine before it has looked whether the old one lives."""
    engine.script = begin_and_hang(engine)
    answers = [web.open("/", TEXT | {"stream": stream}) for _ in range(8)]
    web.wait(lambda: len(engine.requests) == 8)
    if stream:
        assert all(answer.event() for answer in answers)
    engine.die(silently=True)
    engine.script = engine.says("new")
    engine.start()
    for _ in range(8):
        assert web.post("/generate", TEXT).json == {"generated_text": "new"}
    for answer in answers:
        assert answer.response.status == (200 if stream else 503)
        assert b'"error_type":"unhealthy"' in answer.response.read()


def test_an_old_engine_that_wakes_up_reaches_nobody(web: WebServer, engine: FakeEngine) -> None:
    wakes = threading.Event()
    old: list[GenerateRequest] = []

    def late(request: GenerateRequest) -> Any:
        old.append(request)
        yield output(request, engine.token_ids("ab"))
        yield wakes
        for _ in range(50):
            yield output(request, engine.token_ids("LATE"))
        yield output(request, [], FinishReason.LENGTH)

    engine.script = late
    stream = web.open("/generate_stream", STREAMS["/generate_stream"])
    assert stream.event()
    goes_on = threading.Event()
    engine.script = lambda request: [output(request, engine.token_ids("n")), goes_on, *engine.says("ew")(request)]
    # The old engine hangs and keeps its socket; PID 1 has already started another.
    engine.board.enter(Phase.RESTARTING)
    assert "unhealthy" in stream.rest()[-1]
    engine.start()
    other = web.open("/generate_stream", STREAMS["/generate_stream"])
    assert other.event()
    wakes.set()
    goes_on.set()
    assert '"generated_text":"new"' in other.rest()[-1]
    assert all(b"LATE" not in web.post("/generate", TEXT).body for _ in range(4))
    assert engine.aborts == [], "an id of the old engine is none of the new one's business"


def strays(request: GenerateRequest, engine: FakeEngine) -> list[bytes]:
    """Frames that are for nobody, and frames that are no frames."""
    ids = engine.token_ids("STRAY")
    unknown = "0" * 32
    return [
        encode([StepOutput(unknown, ids), StepOutput(unknown, ids, finish_reason=FinishReason.EOS)]),
        encode([Rejected(unknown, ErrorCode.OVERLOADED, "STRAY")]),
        encode([Failed("", ErrorCode.INTERNAL, "STRAY")]),
        encode([StepOutput(request.request_id[:8], ids)]),
        encode([StepOutput(request.request_id + "0", ids)]),
        encode([]),
        b"",
        b"\xc1",
        b"\xff" * 100,
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xa2\xff\xfe",
        b"\x91\x93\xa6output\xa2\xff\xfe\x90",
        b"\x91\x93\xa6output\xa1a\xa1b",
        b"\x91\x92\xa4evil\xc4\x02ab",
        encode([StepOutput(request.request_id, ids)])[:-1],
    ]


def test_stray_and_broken_frames_harm_nobody(web: WebServer, engine: FakeEngine) -> None:
    def noisy(request: GenerateRequest) -> Any:
        yield from strays(request, engine)
        for step in engine.says("he", "llo")(request):
            yield step
            yield from strays(request, engine)
        yield output(request, engine.token_ids("STRAY"), FinishReason.LENGTH)

    engine.script = noisy
    for _ in range(8):
        assert web.post("/generate", TEXT).json == {"generated_text": "hello"}
        assert '"generated_text":"hello"' in events(web.post("/generate_stream", TEXT).body)[-1]
    engine.script = engine.says("hello")
    for _ in range(8):
        assert web.post("/generate", TEXT).json == {"generated_text": "hello"}


def test_a_message_after_the_last_one_is_nobodys(web: WebServer, engine: FakeEngine) -> None:
    done: list[str] = []

    def twice(request: GenerateRequest) -> Any:
        yield from engine.says("hello")(request)
        done.append(request.request_id)
        for request_id in done:
            yield StepOutput(request_id, engine.token_ids("AGAIN"), finish_reason=FinishReason.LENGTH)
            yield Failed(request_id, ErrorCode.INTERNAL, "AGAIN")

    engine.script = twice
    for _ in range(30):
        assert web.post("/generate", TEXT).json == {"generated_text": "hello"}
    assert not engine.aborts
