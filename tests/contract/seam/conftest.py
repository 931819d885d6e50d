"""Real gunicorn with real gevent workers before a scripted engine: what the two sides of the socket owe each other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.seam.web import WebServer
from tests.fakes.engine import FakeEngine


def _serve(**environ: str) -> Iterator[WebServer]:
    # The path of a socket must be short, which pytest's own directories are not.
    with tempfile.TemporaryDirectory(prefix="seam-") as directory:
        server = WebServer(Path(directory), {"WEB_WORKERS": "1"} | environ)
        try:
            server.start_engine()
            yield server
            log = server.log.read_text()
            assert server.stop() == 0
            assert log.count("Traceback") == server.num_provoked_faults, log[-3000:]
        finally:
            server.kill()
            server.engine.close()


@pytest.fixture(scope="session")
def two_workers() -> Iterator[WebServer]:
    yield from _serve(WEB_WORKERS="2")


@pytest.fixture(scope="session")
def guarded() -> Iterator[WebServer]:
    """With a key, a small body limit, little time for a whole answer, and Vertex AI's routes."""
    yield from _serve(
        API_KEY="Secret",
        PAYLOAD_LIMIT="1000",
        INVOCATIONS_PAYLOAD_LIMIT="2000",
        REQUEST_TIMEOUT_S="1",
        AIP_HEALTH_ROUTE="/v1/endpoints/1/deployedModels/2",
        AIP_PREDICT_ROUTE="/v1/endpoints/1/deployedModels/2:predict",
    )


@pytest.fixture
def impatient() -> Iterator[WebServer]:
    """gunicorn kills a worker that has not shown life for 10 s; less would be too little where cores are shared."""
    yield from _serve(GUNICORN_CMD_ARGS="--timeout 10")


@pytest.fixture
def one_place() -> Iterator[WebServer]:
    """For one sequence at a time."""
    yield from _serve(MAX_CONCURRENT_REQUESTS="1")


@pytest.fixture
def web(two_workers: WebServer) -> Iterator[WebServer]:
    """The server with a fresh engine; no worker may have died when the test is over."""
    two_workers.settle()  # what was sent to the last engine has come there
    two_workers.engine.reset()
    two_workers.wait(lambda: two_workers.places_taken() == 0)
    before = two_workers.workers()
    yield two_workers
    assert two_workers.workers() == before


@pytest.fixture
def engine(web: WebServer) -> FakeEngine:
    return web.engine
