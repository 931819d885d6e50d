"""The web side with its exporter process, between a scripted engine and a collector of the test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.tracing.exporter import Exporter
from tests.contract.tracing.traced import TracedServer
from tests.fakes.collector import HttpCollector
from tests.fakes.engine import FakeEngine


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The path of a socket must be short, which pytest's own directories are not."""
    with tempfile.TemporaryDirectory(prefix="spans-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def traced() -> Iterator[TracedServer]:
    with tempfile.TemporaryDirectory(prefix="spans-") as name:
        collector = HttpCollector()
        server = TracedServer(Path(name), collector)
        exporter = Exporter(Path(name), server.environ)
        try:
            server.start_engine()
            yield server
            assert server.stop() == 0
            assert exporter.stop() == 0
            assert "Traceback" not in server.log.read_text() + exporter.log.read_text()
        finally:
            server.kill()
            exporter.kill()
            server.engine.close()
            collector.close()


@pytest.fixture
def web(traced: TracedServer) -> TracedServer:
    traced.settle()
    traced.engine.reset()
    return traced


@pytest.fixture
def engine(web: TracedServer) -> FakeEngine:
    return web.engine
