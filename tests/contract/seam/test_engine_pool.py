"""Two engines behind one web worker: who gets what, and what the death of one means."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler.seam.protocol import FinishReason
from tests.contract.seam.web import STREAMS, TEXT, OpenStream, WebServer
from tests.fakes.engine import FakeEngine, output

PATH = "/generate_stream"


@dataclass
class Pair:
    """A server whose second engine is `other`; both answer with a token, then wait for `go_on`."""

    web: WebServer
    engines: tuple[FakeEngine, FakeEngine]
    go_on: threading.Event

    def begin(self, number: int) -> list[OpenStream]:
        """So many streams, each with its first token there."""
        streams = []
        for _ in range(number):
            streams.append(self.web.open(PATH, STREAMS[PATH]))
            assert streams[-1].event()
        return streams

    def try_one(self, streams: list[OpenStream]) -> bool:
        """One more stream, unless there is no room for it."""
        stream = self.web.open(PATH, STREAMS[PATH])
        found = stream.event() is not None
        if found:
            streams.append(stream)
        return found

    def shares(self) -> list[int]:
        return [len(engine.requests) for engine in self.engines]

    def metric(self, name: str) -> float:
        return self.web.metric(name)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[WebServer, FakeEngine]]:
    with tempfile.TemporaryDirectory(prefix="seam-") as directory:
        environ = {"WEB_WORKERS": "1", "ENGINE_REPLICAS": "2", "MAX_CONCURRENT_REQUESTS": "4"}
        web = WebServer(Path(directory), environ)
        other = FakeEngine(Path(directory) / "engine-1")
        try:
            web.start_engine()
            yield web, other
            assert "Traceback" not in web.log.read_text()
            assert web.stop() == 0
        finally:
            web.kill()
            web.engine.close()
            other.close()


@pytest.fixture
def pair(server: tuple[WebServer, FakeEngine]) -> Iterator[Pair]:
    web, other = server
    go_on = threading.Event()
    found = Pair(web, (web.engine, other), go_on)
    for engine in found.engines:
        engine.reset()
        engine.script = lambda request, engine=engine: [
            output(request, engine.token_ids("a")),
            go_on,
            output(request, engine.token_ids("b"), FinishReason.LENGTH),
        ]
    # What the last test left open counts as work of an engine until the worker has seen that this one is another.
    web.wait(lambda: web.places_taken() == 0 and found.metric("heir_engines_ready") == 2)
    yield found
    go_on.set()


def last(stream: OpenStream) -> dict[str, object]:
    found: dict[str, object] = json.loads(stream.rest()[-1])
    return found


def test_work_is_shared_evenly(pair: Pair) -> None:
    streams = pair.begin(6)
    assert pair.shares() == [3, 3]
    pair.go_on.set()
    assert [last(stream)["generated_text"] for stream in streams] == ["ab"] * 6


@pytest.mark.parametrize("busy", [0, 1])
def test_what_other_workers_have_sent_counts(pair: Pair, busy: int) -> None:
    """Only the board knows of it."""
    pair.engines[busy].board["running"] = 2
    pair.engines[busy].board["waiting"] = 1
    # A stream that nobody refers to is closed, and its request aborted.
    streams = pair.begin(3)
    assert pair.shares()[1 - busy] == 3
    streams += pair.begin(2)
    assert pair.shares()[1 - busy] == 4
    assert len(streams) == 5


def test_a_dead_engine_ends_its_own_requests_only(pair: Pair) -> None:
    streams = pair.begin(4)
    dead, alive = pair.engines
    lost = {request.request_id for request in dead.requests}
    assert len(lost) == 2
    dead.die()
    pair.web.wait(lambda: pair.metric("heir_engines_ready") == 1)
    assert pair.web.ping() == 200
    assert pair.metric("heir_ready") == 1
    # The places of the lost ones are free as soon as their clients have been told.
    later: list[OpenStream] = []
    pair.web.wait(lambda: bool(pair.try_one(later) and len(later) == 2))
    assert len(alive.requests) == 4
    pair.go_on.set()
    answers = [last(stream) for stream in streams]
    assert [answer.get("error_type") for answer in answers].count("unhealthy") == 2
    assert [answer.get("generated_text") for answer in answers].count("ab") == 2
    dead.start()
    pair.web.wait(lambda: pair.metric("heir_engines_ready") == 2)
    assert {pair.web.post("/generate", TEXT).json["generated_text"] for _ in range(4)} == {"ab"}


def test_ping_is_503_when_none_is_left(pair: Pair) -> None:
    for engine in pair.engines:
        assert pair.web.ping() == 200
        engine.die()
    pair.web.wait(lambda: pair.web.ping() == 503)
    assert pair.web.post("/generate", TEXT).status == 503
    assert pair.metric("heir_engines") == 2
    assert pair.metric("heir_ready") == 0
    pair.engines[1].start()
    pair.web.wait(lambda: pair.web.ping() == 200)
    pair.go_on.set()
    assert pair.web.post("/generate", TEXT).status == 200


def test_bounds_and_numbers_add_up(pair: Pair) -> None:
    for engine, number in zip(pair.engines, (3, 4), strict=True):
        engine.board["running"] = number
        engine.board["steps"] = 10 * number
        engine.board["self_test"] = 1
    assert pair.metric("tgi_batch_current_size") == 7
    assert pair.metric("heir_steps_total") == 70
    assert pair.metric("heir_self_test") == 1
    assert pair.web.request("GET", "/info").json["max_concurrent_requests"] == 8
    for engine in pair.engines:
        engine.board["running"] = 0
    streams = pair.begin(8)
    assert pair.web.post("/generate", TEXT).status == 429
    pair.go_on.set()
    assert [last(stream)["generated_text"] for stream in streams] == ["ab"] * 8
    assert pair.web.post("/generate", TEXT).status == 200
    pair.engines[0].die()
    pair.web.wait(lambda: pair.metric("heir_engines_ready") == 1)
    assert pair.web.request("GET", "/info").json["max_concurrent_requests"] == 4
