"""When PID 1 starts the exporter process again after it died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor import trace_process
from container.supervisor.trace_process import TraceProcess


class Dead:
    """A process that has ended with a code."""

    pid, returncode = 1, 1

    def poll(self) -> int:
        return self.returncode


def test_pauses_grow_and_are_short_again_after_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    started: list[float] = []

    def start(*_: Any, **__: Any) -> Dead:
        started.append(now[0])
        return Dead()

    monkeypatch.setattr(trace_process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(trace_process.subprocess, "Popen", start)
    process = TraceProcess(Settings.from_environ({"OTLP_ENDPOINT": "c:1"}), RunDir(tmp_path))

    process.check()

    def pause_after(run_s: float) -> float:
        """Seconds until it is started again after a run of `run_s`."""
        now[0] += run_s
        process.check()
        assert process.pid is None
        died_s, num_started = now[0], len(started)
        while True:
            process.check()
            if len(started) > num_started:
                return started[-1] - died_s
            now[0] += 0.5

    assert [pause_after(1) for _ in range(6)] == [1, 5, 30, 60, 60, 60]
    assert [pause_after(run_s) for run_s in (599, 700, 1, 700, 700, 1)] == [60, 1, 5, 1, 1, 5]
