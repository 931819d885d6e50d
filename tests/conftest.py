"""Fixtures that several test folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import audit
from tests.support.server import Server


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory of a tiny random Llama."""
    from tests.support import tiny_models

    return tiny_models.save("llama", tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real container over the tiny model, shared by tests that do not harm it; watched by `audit`."""
    directory = tmp_path_factory.mktemp("tiny")
    environ = audit.watched(directory / "audit")
    server = Server(directory / "log", {"HF_MODEL_ID": str(tiny_llama)} | environ)
    try:
        server.wait_ready()
        yield server
        assert server.stop() == 0
        assert not audit.findings(directory / "audit")
    finally:
        server.kill()


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real container over the bundled chat model, as `make run` starts it."""
    server = Server(tmp_path_factory.mktemp("chat") / "log")
    try:
        server.wait(lambda: server.ping() == 200, seconds=170)
        yield server
        assert server.stop() == 0
    finally:
        server.kill()
