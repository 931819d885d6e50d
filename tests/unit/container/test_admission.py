"""Admission control over real status boards: who is refused, when there is room again, and when to come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from container.errors import MAX_RETRY_AFTER_S, Overloaded
from container.generation.engine_pool import EnginePool
from container.run_dir import RunDir
from container.serving.admission import Admission
from container.serving.queue_time import QueueTime
from handler.seam.status import Phase, StatusBoard


@pytest.fixture
def board(tmp_path: Path) -> Iterator[StatusBoard]:
    board = StatusBoard(RunDir(tmp_path).board, create=True)
    board["num_engines"] = 1
    board.enter(Phase.READY)
    yield board
    board.close()


@pytest.fixture
def admission(tmp_path: Path, board: StatusBoard) -> Iterator[Admission]:
    run_dir = RunDir(tmp_path)
    engines = EnginePool(run_dir, lambda: None)
    yield Admission(engines, run_dir.concurrency, max_per_engine=lambda: 4)
    engines.close()


def test_sequences_in_flight_are_limited_and_released(admission: Admission) -> None:
    release = admission.admit(3, 0)
    admission.check_room(0)
    with pytest.raises(Overloaded) as refused:
        admission.admit(2, 0)
    assert refused.value.retry_after_s == 1
    admission.admit(1, 0)
    with pytest.raises(Overloaded):
        admission.check_room(0)
    release()
    admission.admit(3, 0)


def test_an_idle_server_admits_more_than_the_limit_at_once(admission: Admission) -> None:
    release = admission.admit(9, 0)
    with pytest.raises(Overloaded):
        admission.check_room(0)
    release()
    admission.check_room(0)


def test_waiting_prompts_are_limited(admission: Admission, board: StatusBoard) -> None:
    board["waiting_tokens"] = 100
    admission.admit(1, 101)
    admission.admit(1, 0)
    with pytest.raises(Overloaded):
        admission.admit(1, 100)
    board["waiting_tokens"] = 99
    admission.admit(1, 100)


def test_the_limit_grows_with_the_engines_that_are_ready(
    admission: Admission, board: StatusBoard, tmp_path: Path
) -> None:
    second_dir = RunDir(tmp_path).engine(1)
    second_dir.path.mkdir()
    second = StatusBoard(second_dir.board, create=True)
    board["num_engines"] = 2
    assert admission.max_in_flight == 4
    second.enter(Phase.READY)
    assert admission.max_in_flight == 8
    board.enter(Phase.RESTARTING)
    second.enter(Phase.RESTARTING)
    assert admission.max_in_flight == 4, "with no engine ready the limit is that of one"
    second.close()


@pytest.mark.parametrize(("waiting", "said_s"), [(0, 1), (100, 2), (10**6, MAX_RETRY_AFTER_S)])
def test_a_long_queue_says_no_more_than_clients_sleep(
    waiting: int, said_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"prompt_tokens": 0, "generated_tokens": 0, "waiting_tokens": waiting}
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    queue = QueueTime(numbers.__getitem__)
    assert queue.retry_after_s == 1, "before anything is measured"
    now_s, numbers["generated_tokens"] = 110.0, 500
    queue.observe()
    assert queue.retry_after_s == said_s
