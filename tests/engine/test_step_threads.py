"""Threads of a step: within the limit, which may change, and whose word on it counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from handler.__main__ import bound_spinning
from handler.engine import step_threads
from handler.engine.forward_thread import ForwardThread
from handler.engine.step_threads import StepThreads
from handler.runners.slots.runner import SlotRunner
from handler.seam.config import EngineConfig
from handler.startup import _num_threads
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("chooses", [True, False])
def test_a_limit_that_changes_holds_from_the_next_step(chooses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_threads, "_LOOK_S", 0.0)
    limit = 3
    threads = StepThreads(lambda: limit, chooses=chooses)
    for limit in (3, 1, 4, 2):
        with threads.used(1):
            assert torch.get_num_threads() == limit
        assert threads.most == limit


@pytest.mark.parametrize("same", [True, False], ids=["the same bits", "other bits"])
def test_what_threads_decide_does_not_change_while_the_engine_runs(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_threads, "_LOOK_S", 0.0)
    limit = 3
    threads = StepThreads(lambda: limit, chooses=False)
    runner = SlotRunner(loaded(tiny_models.build("llama")), 2, 64)
    monkeypatch.setattr(runner, "same_by_any_threads", same, raising=False)
    local = LocalEngine(runner, limits(max_num_seqs=2, max_model_len=64), tmp_path)
    try:
        monkeypatch.setattr(local.core, "_threads", threads)
        local.core.keep_threads()
        limit = 1
        local.submit([1, 2, 3], max_tokens=1)
        local.run()
        assert torch.get_num_threads() == threads.most == (1 if same else 3)
    finally:
        local.close()


def test_the_limit_is_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    threads = StepThreads(lambda: len(read.append(1) or read) and 2, chooses=True)
    before = len(read)
    monkeypatch.setattr(threads, "_look_due_s", float("inf"))
    for _ in range(100):
        with threads.used(1):
            pass
    assert len(read) == before


def test_a_new_thread_for_forward_passes_takes_the_number_of_each_step() -> None:
    forward = ForwardThread()
    forward.replace_soon()
    for number in (2, 1, 3):
        torch.set_num_threads(number)
        assert forward.call(torch.get_num_threads) == number


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_the_users_variables_win(given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = dict(given)
    monkeypatch.setattr(os, "environ", environ)
    bound_spinning()
    assert environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize(
    ("configured", "variable", "number"), [(5, "3", 5), (0, "3", 3), (0, "3,2", 3), (0, "", 4), (0, "many", 4)]
)
def test_whose_number_counts(configured: int, variable: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr("handler.startup.usable_threads", lambda engines: 8 // engines)
    assert _num_threads(EngineConfig(num_threads=configured, num_engines=2)) == number
