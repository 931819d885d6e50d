"""Run a sequence of kernels in one call: the thread team starts once, not once for each kernel.

Threads share each kernel's work and meet at a barrier after it. With many rows, each thread instead takes its own rows
through consecutive kernels: no barriers between them, and intermediate results stay in one core's cache. A row's bits
are the same both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.kernels.barrier import shared_barrier, wait_for_all
from handler.kernels.compiler import compile_kernel
from handler.kernels.primitives import call_function, integers, team_size, thread_number
from handler.kernels.team import (
    NUM_COMMON,
    TEAM_SIZE,
    THREAD_NUMBER,
    TILES,
    Call,
    num_threads,
    scratch,
    team_functions,
)

# After the common arguments, of which this kernel reads the team's functions.
_COUNT, _BARRIER, _KERNELS, _TOGETHER, _TABLE, _WIDTH, _PARTS, _PART_TABLES = range(NUM_COMMON, NUM_COMMON + 8)
_NUM_ARGUMENTS = NUM_COMMON + 8


# Team functions for a kernel that one thread runs alone.
_ALONE = (0, 0)


class Step(NamedTuple):
    """One kernel of a program.

    `kernel` is the address of a C function; `arguments` int64, complete but for the common ones. `scratch_of` maps a
    number of rows to the float32 elements of scratch a thread needs, `shapes_of` to the address of tile shapes.
    `row_bytes` maps arguments that are addresses of rows to the bytes of a row; empty if rows cannot be split.
    Splitting rows between two threads is faster if each gets at least `min_rows`.
    """

    kernel: int
    arguments: NDArray[np.int64]
    scratch_of: Callable[[int], int]
    shapes_of: Callable[[int], int]
    row_bytes: Mapping[int, int] = {}
    min_rows: int = 1


def nothing(_num_rows: int) -> int:
    """Return 0, for a kernel without scratch or without tiles."""
    return 0


class Program:
    """Steps that all threads run."""

    def __init__(self, steps: Sequence[Step]) -> None:
        width = max(len(step.arguments) for step in steps)
        # int64 `[steps, width]`, a step's arguments in each row; callers may write here.
        self.table = np.zeros((len(steps), width), np.int64)
        self._row_bytes = np.zeros_like(self.table)
        for row, row_bytes, step in zip(self.table, self._row_bytes, steps, strict=True):
            row[: len(step.arguments)] = step.arguments
            row_bytes[list(step.row_bytes)] = list(step.row_bytes.values())
        self._part_tables = self.table[None]
        self._min_rows = max(step.min_rows for step in steps)
        self._scratch_of = {step.scratch_of for step in steps}
        self._tiles = {
            shapes_of: np.array([i for i, step in enumerate(steps) if step.shapes_of is shapes_of])
            for shapes_of in {step.shapes_of for step in steps}
        }
        self._kernels = np.array([step.kernel for step in steps], np.int64)
        self._together = np.array([not step.row_bytes for step in steps], np.int64)
        self._call = Call(_compile(), _NUM_ARGUMENTS)
        self._call.arguments[THREAD_NUMBER : TEAM_SIZE + 1] = team_functions()
        self._call.arguments[_COUNT:_PARTS] = (
            *(len(steps), shared_barrier().ctypes.data, self._kernels.ctypes.data),
            *(self._together.ctypes.data, self.table.ctypes.data, width),
        )

    def run(self, num_rows: int) -> None:
        """Run all steps for `num_rows` rows, at least one."""
        buffer = scratch(max(scratch_of(num_rows) for scratch_of in self._scratch_of))
        stride = buffer.stride(0) * buffer.element_size()
        self._set(self.table, team_functions(), num_rows, buffer.data_ptr(), stride)
        parts = num_threads()
        # Each thread with its own rows unpacks all weights, so more threads need more rows each.
        if parts == 1 or 2 * num_rows < self._min_rows * parts * parts:
            parts = 1
        else:
            self._set_parts(parts, num_rows, buffer.data_ptr(), stride)
        self._call.arguments[_PARTS:] = (parts, self._part_tables.ctypes.data)
        self._call.run()

    def _set(self, table: NDArray[np.int64], team: tuple[int, int], num_rows: int, buffer: int, stride: int) -> None:
        table[:, :TILES] = (0, *team, num_rows, buffer, stride)
        for shapes_of, steps in self._tiles.items():
            table[steps, TILES] = shapes_of(num_rows)

    def _set_parts(self, parts: int, num_rows: int, buffer: int, stride: int) -> None:
        """Fill a table for each part, with its own rows and scratch."""
        if len(self._part_tables) != parts:
            self._part_tables = np.zeros((parts, *self.table.shape), np.int64)
        firsts = [num_rows * part // parts for part in range(parts + 1)]
        for part, table in enumerate(self._part_tables):
            table[:] = self.table + firsts[part] * self._row_bytes
            self._set(table, _ALONE, firsts[part + 1] - firsts[part], buffer + part * stride, stride)


@functools.cache
def _compile() -> int:
    def kernel(arguments):  # pragma: no cover
        count, barrier, parts = arguments[_COUNT], arguments[_BARRIER], arguments[_PARTS]
        kernels, together = integers(arguments[_KERNELS]), integers(arguments[_TOGETHER])
        row, thread, size = arguments[_WIDTH] * 8, thread_number(arguments), team_size(arguments)
        for i in range(count):
            apart = parts > 1 and together[i] == 0
            if i > 0 and not (apart and together[i - 1] == 0):
                wait_for_all(barrier, size)
            if apart:
                # The team may have fewer threads than requested.
                for part in range(thread, parts, size):
                    call_function(kernels[i], arguments[_PART_TABLES] + (part * count + i) * row)
            else:
                call_function(kernels[i], arguments[_TABLE] + i * row)

    return compile_kernel(kernel)
