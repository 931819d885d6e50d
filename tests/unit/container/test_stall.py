"""A process that hangs, one that is starved and one that was frozen with its observer, told apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.supervisor import stall
from container.supervisor.stall import StallWatch
from tests.support.clock import Clock


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    yield from _child("import time; time.sleep(600)", "S")


@pytest.fixture
def spinner() -> Iterator[subprocess.Popen[bytes]]:
    yield from _child("exec('while True: pass')", "R")


def _child(code: str, state: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has begun: it says so before it does anything else."""
    child = subprocess.Popen([sys.executable, "-c", f"print(flush=True); {code}"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    wait_for(child.pid, state)
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def wait_for(pid: int, state: str) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(stall, "time", found)
    return found


def watch(stall_watch: StallWatch, clock: Clock, pid: int, seconds: float, step_limit_s: float = 0.0) -> float | None:
    """Look ten times a second at an engine that does not move."""
    found = None
    for _ in range(int(seconds * 10)):
        clock.now += 0.1
        found = stall_watch.hung_for_s(pid, 7, step_limit_s)
    return found


def test_silence_beyond_the_limit_is_a_hang(clock: Clock, sleeper: subprocess.Popen[bytes]) -> None:
    found = StallWatch(5.0)
    assert watch(found, clock, sleeper.pid, 4.5) is None
    assert watch(found, clock, sleeper.pid, 1.0) == pytest.approx(5.4, abs=0.3)


def test_a_stopped_process_hangs(clock: Clock, spinner: subprocess.Popen[bytes]) -> None:
    os.kill(spinner.pid, signal.SIGSTOP)
    wait_for(spinner.pid, "T")
    assert watch(StallWatch(5.0), clock, spinner.pid, 6.0) is not None


def test_every_beat_begins_anew(clock: Clock, sleeper: subprocess.Popen[bytes]) -> None:
    found = StallWatch(5.0)
    for beat in range(100, 120):
        clock.now += 0.4
        assert found.hung_for_s(sleeper.pid, beat, 0.0) is None
        assert watch(found, clock, sleeper.pid, 4.0) is None


def test_a_step_may_take_what_the_engine_says(clock: Clock, sleeper: subprocess.Popen[bytes]) -> None:
    found = StallWatch(5.0)
    assert watch(found, clock, sleeper.pid, 59.0, step_limit_s=60.0) is None
    assert watch(found, clock, sleeper.pid, 3.0, step_limit_s=60.0) is not None


def test_time_in_which_nobody_could_look_does_not_count(clock: Clock, sleeper: subprocess.Popen[bytes]) -> None:
    """The whole container was frozen, or the machine slept."""
    found = StallWatch(5.0)
    watch(found, clock, sleeper.pid, 1.0)
    clock.now += 3600
    assert found.hung_for_s(sleeper.pid, 7, 0.0) is None


def test_a_runnable_process_without_processor_time_is_starved_but_not_for_ever(
    clock: Clock, spinner: subprocess.Popen[bytes]
) -> None:
    """The clock runs thousands of times quicker than the process can: it gets next to no processor time."""
    found = StallWatch(5.0)
    assert watch(found, clock, spinner.pid, 20.0) is None
    assert watch(found, clock, spinner.pid, 15.0) is not None


def test_a_starved_process_that_is_frozen_has_the_rest_of_its_time(
    clock: Clock, spinner: subprocess.Popen[bytes]
) -> None:
    found = StallWatch(5.0)
    watch(found, clock, spinner.pid, 20.0)
    os.kill(spinner.pid, signal.SIGSTOP)
    wait_for(spinner.pid, "T")
    assert watch(found, clock, spinner.pid, 0.6) is None
    assert watch(found, clock, spinner.pid, 1.0) is not None


@pytest.mark.parametrize(("before", "now", "factor"), [(0.5, 0.5, 2), (0.2, 0.2, 5), (2.0, 0.5, 4), (64.0, 64.0, 1)])
def test_silence_under_a_quota_counts_less(
    before: float,
    now: float,
    factor: float,
    clock: Clock,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if the quota is cut while a step runs, whose limit is that of quicker steps."""
    monkeypatch.setattr(stall, "usable_cpus", lambda: before)
    found = StallWatch(5.0)
    monkeypatch.setattr(stall, "usable_cpus", lambda: now)
    # The first second counts in full.
    assert watch(found, clock, sleeper.pid, 1 + 3.8 * factor) is None
    assert watch(found, clock, sleeper.pid, 0.5 * factor) is not None


def test_a_process_that_is_gone_hangs(clock: Clock, sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert watch(StallWatch(5.0), clock, sleeper.pid, 6.0) is not None
