"""Places over several processes, which claim their numbers from the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from container.serving.concurrency import Places


def in_a_process(work: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_limit_holds_over_all_workers_and_a_successor_frees_the_dead(tmp_path: Path) -> None:
    path = tmp_path / "places"
    mine = Places(path)
    assert mine.take(3, limit=8)
    in_a_process(lambda: Places(path).take(4, limit=8))
    assert mine.taken == 7, "a worker that died still counts until another takes its number"
    assert not mine.take(2, limit=8)
    assert mine.take(1, limit=8)
    in_a_process(lambda: Places(path))
    assert mine.taken == 4
    mine.give_back(4)
    assert mine.taken == 0
    mine.close()


def test_an_idle_server_takes_any_number_once(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")
    assert places.take(20, limit=8)
    assert not places.take(1, limit=8)
    places.close()
