"""Kernels one after the other in one call: the team of threads is called together once, not for each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.native.compiler import compile_kernel
from handler.native.memory import call_function, integers, wait_for_all
from handler.native.team import TILES, Call, barrier_address, scratch

_COUNT, _BARRIER, _KERNELS, _TABLE, _WIDTH = range(5)
_NUM_ARGUMENTS = 5


class Step(NamedTuple):
    """One kernel's turn.

    `kernel` is the address of a C function, `arguments` int64, complete but for what all kernels have; `scratch_of` and
    `shapes_of` say, for some rows, how many numbers of scratch a thread needs and where tiles' shapes are.
    """

    kernel: int
    arguments: NDArray[np.int64]
    scratch_of: Callable[[int], int]
    shapes_of: Callable[[int], int]


def nothing(_num_rows: int) -> int:
    """For a kernel without scratch, or without tiles."""
    return 0


class Program:
    """Steps that all threads take together; each waits until the others have done the one before."""

    def __init__(self, steps: Sequence[Step]) -> None:
        width = max(len(step.arguments) for step in steps)
        # `table` int64 `[steps, width]`: whoever knows a kernel's arguments may write there.
        self.table = np.zeros((len(steps), width), np.int64)
        for row, step in zip(self.table, steps, strict=True):
            row[: len(step.arguments)] = step.arguments
        self._scratch_of = {step.scratch_of for step in steps}
        self._tiles = {
            shapes_of: np.array([i for i, step in enumerate(steps) if step.shapes_of is shapes_of])
            for shapes_of in {step.shapes_of for step in steps}
        }
        self._kernels = np.array([step.kernel for step in steps], np.int64)
        self._call = Call(_compile(), _NUM_ARGUMENTS)
        self._call.arguments[:] = (
            *(len(steps), barrier_address(), self._kernels.ctypes.data),
            *(self.table.ctypes.data, width),
        )

    def run(self, num_rows: int) -> None:
        """Take all steps for `num_rows` rows, at least one."""
        room = scratch(max(scratch_of(num_rows) for scratch_of in self._scratch_of))
        self.table[:, :TILES] = (0, 0, 0, num_rows, room.data_ptr(), room.stride(0) * 4)
        for shapes_of, steps in self._tiles.items():
            self.table[steps, TILES] = shapes_of(num_rows)
        self._call.run()


@functools.cache
def _compile() -> int:
    def kernel(arguments):  # pragma: no cover
        count, barrier = arguments[_COUNT], arguments[_BARRIER]
        kernels = integers(arguments[_KERNELS])
        for i in range(count):
            if i > 0 and barrier != 0:
                wait_for_all(barrier)
            call_function(kernels[i], arguments[_TABLE] + i * arguments[_WIDTH] * 8)

    return compile_kernel(kernel)
