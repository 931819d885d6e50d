"""Fixtures that several test folders share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import audit
from tests.support.server import PYTHON, ROOT, Server

# On a machine that does other things too, an engine that is kept waiting is not hung.
PATIENT = {"ENGINE_STALL_TIMEOUT_S": "600"}


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory of a tiny random Llama."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    if sys.executable != PYTHON:
        code = "import sys; from pathlib import Path; from tests.support import tiny_models as t; "
        code += "t.save('llama', Path(sys.argv[1]))"
        subprocess.run([PYTHON, "-c", code, str(directory)], cwd=ROOT, check=True)
        return directory
    from tests.support import tiny_models

    return tiny_models.save("llama", directory)


@pytest.fixture(scope="session")
def tiny_server(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real container over the tiny model, shared by tests that do not harm it; watched by `audit`."""
    directory = tmp_path_factory.mktemp("tiny")
    environ = audit.watched(directory / "audit")
    server = Server(directory / "log", PATIENT | {"HF_MODEL_ID": str(tiny_llama)} | environ)
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
    server = Server(tmp_path_factory.mktemp("chat") / "log", PATIENT)
    try:
        server.wait(lambda: server.ping() == 200, seconds=170)
        yield server
        assert server.stop() == 0
    finally:
        server.kill()
