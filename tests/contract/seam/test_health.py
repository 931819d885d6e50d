"""Readiness is told from the board alone."""

from __future__ import annotations

import threading

import pytest

from handler.seam.status import Phase
from tests.contract.seam.web import GENERATES, STREAMS, WebServer
from tests.fakes.engine import FakeEngine, output

NOT_READY = [phase for phase in Phase if phase is not Phase.READY]
PROBES = [("GET", "/ping"), ("POST", "/ping"), ("GET", "/health"), ("GET", "/")]


@pytest.mark.parametrize(("method", "path"), PROBES)
def test_ready_is_200_and_an_empty_body(web: WebServer, method: str, path: str) -> None:
    answer = web.request(method, path)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("phase", NOT_READY, ids=lambda phase: phase.name)
def test_any_other_phase_is_503_and_tells_which(web: WebServer, engine: FakeEngine, phase: Phase) -> None:
    engine.board.enter(phase, "reading 3 of 7 files")
    engine.board["progress_permille"] = 250
    for method, path in PROBES:
        answer = web.request(method, path)
        assert answer.status == 503
        assert answer.headers["Retry-After"].isdecimal()
        assert answer.json == {
            "error": "unhealthy",
            "error_type": "healthcheck",
            "phase": phase.name.lower(),
            "detail": "reading 3 of 7 files",
            "progress": 0.25,
        }


@pytest.mark.parametrize("path", sorted(GENERATES.keys() | STREAMS.keys()))
def test_nothing_is_generated_while_not_ready(web: WebServer, engine: FakeEngine, path: str) -> None:
    engine.board.enter(Phase.LOADING)
    answer = web.post(path, (STREAMS | GENERATES)[path])
    assert answer.status == 503
    assert answer.headers["Retry-After"].isdecimal()
    assert "loading" in answer.body.decode()
    assert not engine.requests


def test_draining_finishes_what_runs_and_takes_nothing_new(web: WebServer, engine: FakeEngine) -> None:
    goes_on = threading.Event()
    engine.script = lambda request: iter(
        [output(request, engine.token_ids("a")), goes_on, *engine.says("b")(request)],
    )
    running = web.open("/generate_stream", STREAMS["/generate_stream"])
    assert running.event()
    engine.board["draining"] = 1
    assert web.request("GET", "/ping").json["phase"] == "draining"
    refused = web.post("/v1/chat/completions", GENERATES["/v1/chat/completions"])
    assert (refused.status, refused.json["error"]["code"]) == (503, "not_ready")
    goes_on.set()
    assert '"generated_text":"ab"' in running.rest()[-1]


def test_health_never_waits_for_generations(web: WebServer, engine: FakeEngine) -> None:
    never = threading.Event()
    engine.script = lambda _request: [never]
    waiting = [web.open("/v1/chat/completions", GENERATES["/v1/chat/completions"]) for _ in range(32)]
    web.wait(lambda: len(engine.requests) == 32)
    assert all(web.ping() == 200 for _ in range(20))
    for each in waiting:
        each.close()
    web.wait(lambda: len(engine.aborts) == 32)
