"""No thread passes the barrier before all are there, whether it spins, sleeps, or waits for a core."""

from __future__ import annotations

import numpy as np
import pytest

from handler.kernels.barrier import new_barrier, wait_for_all
from handler.kernels.compiler import compile_kernel
from handler.kernels.primitives import integers, team_size, thread_number
from handler.kernels.team import NUM_COMMON, Call, team_functions

_BARRIER, _CELLS, _ROUNDS = range(NUM_COMMON, NUM_COMMON + 3)
# A cache line each.
_APART = 8


def _meet(arguments):  # pragma: no cover
    """Each thread writes its cell, waits, and counts the others' cells that are not written yet."""
    size, thread, cells = team_size(arguments), thread_number(arguments), integers(arguments[_CELLS])
    early = 0
    for turn in range(1, arguments[_ROUNDS] + 1):
        cells[thread * 8] = turn
        wait_for_all(arguments[_BARRIER], size)
        for other in range(size):
            early += cells[other * 8] != turn
        wait_for_all(arguments[_BARRIER], size)
    cells[thread * 8 + 1] = early
    cells[thread * 8 + 2] = size


@pytest.mark.parametrize(("num_threads", "rounds"), [(1, 1000), (2, 1000), (3, 500), (16, 100)])
def test_no_thread_is_early(num_threads: int, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen threads are more than cores: those that spin take the cores of those they wait for, until they sleep."""
    monkeypatch.setattr("torch.get_num_threads", lambda: num_threads)
    barrier, cells = new_barrier(), np.zeros(num_threads * _APART, np.int64)
    call = Call(compile_kernel(_meet), NUM_COMMON + 3)
    call.set(0, *team_functions(), 0, 0, 0, 0, barrier.ctypes.data, cells.ctypes.data, rounds)
    call.run()
    assert cells[2::_APART].tolist() == [num_threads] * num_threads
    assert cells[1::_APART].tolist() == [0] * num_threads
    assert cells[::_APART].tolist() == [rounds] * num_threads
    # All have met 2 * rounds times, none is counted as waiting or asleep, and the barrier is as new.
    assert barrier[:24:_APART].tolist() == [0, 2 * rounds, 0]
