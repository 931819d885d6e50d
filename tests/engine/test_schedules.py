"""Random schedules, in small, over every kind of memory; `make faults ROWS=21` plays 500."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.scheduling.scheduler import Scheduler
from tests.support.schedules import CROWDS, alone, differs, draw, engine, play


@pytest.mark.parametrize("kind", CROWDS)
def test_every_schedule_gives_each_request_what_it_gets_alone(kind: str, tmp_path: Path) -> None:
    solo, crowded = engine(tmp_path / "solo", "roomy"), engine(tmp_path / "crowded", kind)
    scheduler: Scheduler = crowded.core.scheduler
    try:
        for seed in range(6):
            wishes = draw(seed)
            play(crowded, wishes)
            wrong = {i: differs(wish, alone(solo, wish)) for i, wish in enumerate(wishes)}
            assert not any(wrong.values()), (seed, wrong)
    finally:
        solo.close()
        crowded.close()
    assert scheduler.num_preemptions > 0 or "preempting" not in kind
    assert (scheduler.kv.prefix_hit_tokens > 0) == kind.startswith(("reusing", "paged"))
