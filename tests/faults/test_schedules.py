"""Row 21: five hundred random schedules of arrivals, aborts and every sampling parameter, in two engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from handler.model_runner import ModelRunner
from tests.faults.conftest import Scoreboard
from tests.support import tiny_models
from tests.support.local_engine import LocalEngine, limits, loaded
from tests.support.schedules import alone, differs, draw, play

NUM_SCHEDULES = 500


def engine(directory: Path, **changes: Any) -> LocalEngine:
    directory.mkdir()
    bounds = limits(**changes)
    runner = ModelRunner(loaded(tiny_models.build("llama")), bounds.max_num_seqs, bounds.max_model_len)
    runner.probe()
    runner.speed_up()
    return LocalEngine(runner, bounds, directory)


@pytest.mark.timeout(3600)
@pytest.mark.row(21, bug="")
def test_schedules(scoreboard: Scoreboard, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    solo = engine(tmp_path / "solo", capacity_tokens=128, max_model_len=128)
    crowds = [
        engine(tmp_path / "roomy"),
        engine(tmp_path / "preempting", capacity_tokens=128, max_model_len=128),
    ]
    wrong, num, left = [], 0, 0
    for seed in range(NUM_SCHEDULES):
        wishes = draw(seed)
        play(crowds[seed % 2], wishes)
        for i, wish in enumerate(wishes):
            num += 1
            left += wish.leaves is not None
            difference = differs(wish, alone(solo, wish))
            if difference is not None:
                wrong.append(f"schedule {seed}, request {i}: {difference[:80]}")
    preempted = crowds[1].core.scheduler.num_preemptions
    for each in (solo, *crowds):
        each.close()
    text = f"{len(wrong)} of {num} requests differ ({left} left early, {preempted} preemptions)"
    ok = not wrong and preempted > 0
    scoreboard(21, f"{NUM_SCHEDULES} schedules", "", "; ".join([text, *wrong[:3]]), ok)
