"""What adapters add to the finished output of a layer whose own kernel adds nothing before it rounds."""

from __future__ import annotations

import functools

import numpy as np
import torch

from handler.kernels.compiler import compile_kernel
from handler.kernels.low_rank.added import WIDE, run_of
from handler.kernels.low_rank.rows import ENTRY
from handler.kernels.low_rank.tile import MOST_ROWS, SIDE, expand_tile
from handler.kernels.primitives import (
    BITS,
    BITS_FLOAT32,
    elements,
    exp_of_negative,
    inlined,
    integers,
    load,
    share_of,
    store,
    thread_number,
)
from handler.kernels.team import NUM_COMMON, NUM_ROWS, SCRATCH, SCRATCH_STRIDE

ADD, ADD_TIMES, ADD_THEN_SILU = range(3)
SHRUNK, SLOTS, OUT, OTHER, OPERATION, WIDTH, OUT_WIDTH, UPS, ENDS, NUM_SECTIONS = range(NUM_COMMON, NUM_COMMON + 10)
NUM_ARGUMENTS = NUM_COMMON + 10
# Float32 numbers of scratch for a thread.
EXPAND_SCRATCH = MOST_ROWS * WIDE


@inlined
def _finish(y, term, other, operation):  # pragma: no cover
    if operation == ADD_TIMES:
        return y + term * other
    y += term
    if operation != ADD_THEN_SILU:
        return y
    e = exp_of_negative(-abs(y))
    return y * (np.float32(1) if y >= 0 else e) / (np.float32(1) + e)


@functools.cache
def compile_expand(dtype: torch.dtype) -> int:
    """The address of the kernel for outputs and matrices of `dtype`.

    `ADD`: `out + term`. `ADD_TIMES`: `out + term * other`, for an `out` that was multiplied by `other`.
    `ADD_THEN_SILU`: `silu(out + term)`. `UPS` int64 `[slots, sections, 3]`: address of B as `[groups, r, 64]`, r,
    where its inputs begin in a shrunk row. `ENDS` int64 `[sections]`, in outputs. Other rows are not touched.
    """
    bits = BITS[dtype]
    size = bits // 8

    def kernel(arguments):  # pragma: no cover
        num_rows, width, out_width = arguments[NUM_ROWS], arguments[WIDTH], arguments[OUT_WIDTH]
        slots, ups, ends = integers(arguments[SLOTS]), integers(arguments[UPS]), integers(arguments[ENDS])
        out, other, operation = elements(arguments[OUT], bits), elements(arguments[OTHER], bits), arguments[OPERATION]
        terms_at = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE]
        terms = elements(terms_at, BITS_FLOAT32)
        begin = 0
        for section in range(arguments[NUM_SECTIONS]):
            first, end = share_of(arguments, (ends[section] - begin + WIDE - 1) // WIDE)
            for group in range(first, end):
                lanes = min(WIDE, ends[section] - begin - group * WIDE)
                row = 0
                while row < num_rows:
                    entry = (slots[row] * arguments[NUM_SECTIONS] + section) * ENTRY
                    if slots[row] < 0 or ups[entry] == 0:
                        row += 1
                        continue
                    rows, count = run_of(slots, row, num_rows), ups[entry + 1]
                    x = arguments[SHRUNK] + (row * width + ups[entry + 2]) * 4
                    weights = ups[entry] + group * count * WIDE * size
                    expand_tile(rows, bits, SIDE, 0, x, width, weights, count, terms_at, WIDE)
                    for r in range(rows):
                        at = (row + r) * out_width + begin + group * WIDE
                        for lane in range(lanes):
                            beside = load(other, at + lane) if operation == ADD_TIMES else np.float32(0)
                            y = _finish(load(out, at + lane), load(terms, r * WIDE + lane), beside, operation)
                            store(out, at + lane, y)
                    row += rows
            begin = ends[section]

    return compile_kernel(kernel)
