"""Row 21: five hundred random schedules of arrivals, aborts and every sampling parameter, over every kind of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults.conftest import Scoreboard
from tests.support.schedules import CROWDS, alone, differs, draw, engine, play

NUM_SCHEDULES = 500


@pytest.mark.timeout(3600)
@pytest.mark.row(
    21, bug="handler/sampling/sampler.py: the distributions of drawn rows in reverse order: 181 of 360 requests differ"
)
def test_schedules(scoreboard: Scoreboard, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    solo = engine(tmp_path / "solo", "roomy")
    crowds = [engine(tmp_path / str(i), kind) for i, kind in enumerate(CROWDS)]
    wrong, num, left = [], 0, 0
    for seed in range(NUM_SCHEDULES):
        wishes = draw(seed)
        play(crowds[seed % len(crowds)], wishes)
        for i, wish in enumerate(wishes):
            num += 1
            left += wish.leaves is not None
            difference = differs(wish, alone(solo, wish))
            if difference is not None:
                wrong.append(f"schedule {seed}, request {i}: {difference[:80]}")
    preempted = sum(each.core.scheduler.num_preemptions for each in crowds)
    reused = sum(each.core.scheduler.kv.prefix_hit_tokens for each in crowds)
    for each in (solo, *crowds):
        each.close()
    text = f"{len(wrong)} of {num} requests differ ({left} left early, {preempted} preemptions, {reused} tokens reused)"
    ok = not wrong and preempted > 0 and reused > 0
    scoreboard(21, f"{NUM_SCHEDULES} schedules", "", "; ".join([text, *wrong[:3]]), ok)
