"""Random schedules, in small; `make faults ROWS=21` plays 500."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.local_engine import LocalEngine
from tests.support.schedules import alone, differs, draw, play


@pytest.mark.parametrize("capacity", [4096, 128], ids=["roomy", "preempting"])
def test_every_schedule_gives_each_request_what_it_gets_alone(
    make_engine: Callable[..., LocalEngine], llama: Any, capacity: int
) -> None:
    longest = min(capacity, 256)
    solo, crowded = make_engine(llama), make_engine(llama, capacity_tokens=capacity, max_model_len=longest)
    for seed in range(12):
        wishes = draw(seed)
        play(crowded, wishes)
        wrong = {i: differs(wish, alone(solo, wish)) for i, wish in enumerate(wishes)}
        assert not any(wrong.values()), (seed, wrong)
    assert capacity == 4096 or crowded.core.scheduler.num_preemptions > 0
