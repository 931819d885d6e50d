"""The hook process as PID 1 watches it: the real process, no web worker."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from container.run_dir import RunDir
from container.supervisor.hook_process import HookProcess
from handler.seam.status import Phase
from tests.support.hooks import write


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    """With a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="hook-") as directory:
        yield RunDir(Path(directory))


def check_until(hook: HookProcess, condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until_s, hook.board.detail
        hook.check()
        time.sleep(0.02)


def test_a_death_while_draining_ends_neither_the_container_nor_the_engines_drain(
    tmp_path: Path, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"handler.py": "class EndpointHandler:\n    def __init__(self, path): pass\n    __call__ = id"})
    monkeypatch.setenv("HF_MODEL_ID", str(tmp_path))
    monkeypatch.setenv("TRUST_CUSTOM_CODE", "true")
    hook = HookProcess(run_dir)
    try:
        check_until(hook, lambda: hook.board.phase is not Phase.STARTING and hook.board.phase is not Phase.LOADING)
        assert hook.board.phase is Phase.READY, hook.board.detail
        assert hook.pid is not None
        os.kill(hook.pid, signal.SIGSTOP)  # it writes nothing more
        hook.drain()
        hook.board["running"] = 1
        hook.check()
        assert not hook.idle
        os.kill(hook.pid, signal.SIGKILL)
        check_until(hook, lambda: hook.pid is None)
        assert hook.idle
        hook.check()
        assert (hook.exit_code, hook.pid) == (None, None)
        assert hook.board.phase is Phase.FAILED  # web workers fail their open calls
    finally:
        hook.close()


def test_the_codes_own_exit_code_is_a_crash_like_any_other(
    tmp_path: Path, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 means a model that cannot be served, but only if the process says so itself."""
    code = "import os, threading\nclass EndpointHandler:\n    def __init__(self, path):\n"
    code += "        threading.Timer(0.5, os._exit, (3,)).start()\n    __call__ = id"
    write(tmp_path, {"handler.py": code})
    monkeypatch.setenv("HF_MODEL_ID", str(tmp_path))
    monkeypatch.setenv("TRUST_CUSTOM_CODE", "true")
    hook = HookProcess(run_dir)
    try:
        check_until(hook, lambda: hook.board["restarts"] > 0 or hook.exit_code is not None)
        assert (hook.exit_code, hook.board.phase) == (None, Phase.RESTARTING)
    finally:
        hook.close()
