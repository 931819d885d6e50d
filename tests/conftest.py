"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import audit, skips
from tests.support.server import PYTHON, ROOT, Server

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores. Threads that spin while they wait for one another take three times the processor's time;
    # torch reads this when it is imported. Tests of threads ask for two of them themselves.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "ENGINE_THREADS": "1"}

# Each run meets the same examples, however long they take: what fails here fails everywhere. `make fuzz` draws others.
_PATIENTLY = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    "print_blob": True,
}
settings.register_profile("steady", derandomize=True, database=None, **_PATIENTLY)
settings.register_profile("random", derandomize=False, **_PATIENTLY)  # also where CI is set, where Hypothesis would not
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(skips)


# On a machine that does other things too, an engine that is kept waiting is not hung.
PATIENT = {"ENGINE_STALL_TIMEOUT_S": "600"}


@pytest.fixture(scope="module")
def several_threads() -> Iterator[None]:
    """Two at least, for what threads could spoil: a worker has one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What is tiny gains nothing from more, and loses much where the cores are shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CACHE_DIR of this run, whose kernels each process finds that needs what another one has compiled."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "kept"


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
    server = Server(tmp_path_factory.mktemp("chat") / "log", PATIENT | {"ENGINE_THREADS": ""})
    try:
        server.wait_ready()
        yield server
        assert server.stop() == 0
    finally:
        server.kill()
