"""Fixtures of several test folders, Hypothesis profiles, and the plugin for skips."""

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
    # Workers share the cores. OpenMP threads that spin at a barrier would triple the processor time. Set this before
    # torch is imported. Tests of threads set their own number.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "ENGINE_THREADS": "1"}

# Every run draws the same examples without a deadline, so a failure can be repeated. `make fuzz` draws new ones.
_PATIENTLY = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    "print_blob": True,
}
settings.register_profile("steady", derandomize=True, database=None, **_PATIENTLY)
settings.register_profile("random", derandomize=False, **_PATIENTLY)  # Hypothesis derandomizes by default if CI is set
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(skips)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test draws the same numbers in each run; a new process has a seed of its own."""
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def hub_as_it_was() -> Iterator[None]:
    """A start in this process shuts the hub out for good; clients that are tested after it want it."""
    name, place = "HF_HUB_OFFLINE", "huggingface_hub.constants"
    value, was_loaded = os.environ.get(name), place in sys.modules
    offline = was_loaded and sys.modules[place].HF_HUB_OFFLINE
    yield
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
    if place in sys.modules:
        sys.modules[place].HF_HUB_OFFLINE = offline  # type: ignore[attr-defined]


# On a busy machine an engine may wait for minutes without being hung.
PATIENT = {"ENGINE_STALL_TIMEOUT_S": "600"}


@pytest.fixture(scope="module")
def several_threads() -> Iterator[None]:
    """At least two torch threads, for tests of races; a pytest worker has one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread: tiny operations gain nothing from more and are slowed down on shared cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's CACHE_DIR. All pytest workers share it, so each kernel is compiled once."""
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
    """The real container over the tiny model, watched by `audit`. Tests that share it must leave it intact."""
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
