"""Arguments of the kernels that multiply by weights, and how their products become a layer's output."""

from __future__ import annotations

import numpy as np

from handler.native.memory import called, exp_of_negative, load, store
from handler.native.team import NUM_COMMON
from handler.native.vectors import LANES, write_rounded

NONE, SILU, TIMES, PLUS = range(4)

# Behind what all kernels have: what changes from call to call, then what does not.
X, OTHER, OPERATION, OUT = range(NUM_COMMON, NUM_COMMON + 4)
NUM_GROUPS, NUM_BLOCKS, CODES, SCALES, BIAS = range(NUM_COMMON + 4, NUM_COMMON + 9)
NUM_ARGUMENTS = NUM_COMMON + 9

# Groups of 16 outputs that a thread takes at a time.
GROUPS = 4


@called
def write_outputs(
    products, num_rows, num_groups, row, group, width, has_bias, bias, operation, other, out
):  # pragma: no cover
    """From `products`, which are changed, to the output, rounded once."""
    count, first = num_groups * LANES, group * LANES
    for r in range(num_rows):
        to = (row + r) * width + first
        at = r * count
        if has_bias:
            for n in range(count):
                store(products, at + n, load(products, at + n) + load(bias, first + n))
        if operation == SILU:
            for n in range(count):
                y = load(products, at + n)
                e = exp_of_negative(-abs(y))
                store(products, at + n, y * (np.float32(1) if y >= 0 else e) / (np.float32(1) + e))
        elif operation == TIMES:
            for n in range(count):
                store(products, at + n, load(products, at + n) * load(other, to + n))
        elif operation == PLUS:
            for n in range(count):
                store(products, at + n, load(products, at + n) + load(other, to + n))
        write_rounded(products, at, num_groups, out, to)
