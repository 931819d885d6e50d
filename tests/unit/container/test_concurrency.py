"""One limit over several processes, which claim their counts from the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from container.serving.concurrency import ConcurrencyLimit


def in_a_process(work: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_limit_holds_over_all_workers_and_a_successor_frees_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "concurrency"
    mine = ConcurrencyLimit(path)
    assert mine.acquire(3, limit=8)
    in_a_process(lambda: ConcurrencyLimit(path).acquire(4, limit=8))
    assert mine.in_flight == 7, "a worker that died still counts until another takes over its count"
    assert not mine.acquire(2, limit=8)
    assert mine.acquire(1, limit=8)
    in_a_process(lambda: ConcurrencyLimit(path))
    assert mine.in_flight == 4
    mine.release(4)
    assert mine.in_flight == 0
    mine.close()


def test_an_idle_server_takes_any_number_once(tmp_path: Path) -> None:
    one = ConcurrencyLimit(tmp_path / "concurrency")
    assert one.acquire(20, limit=8)
    assert not one.acquire(1, limit=8)
    one.close()
