"""`scaling * (x A^T)` of each row by its own adapter, in float32."""

from __future__ import annotations

import functools

import torch

from handler.kernels.compiler import compile_kernel
from handler.kernels.low_rank.added import run_of
from handler.kernels.low_rank.rows import ENTRY
from handler.kernels.low_rank.tile import shrink_tile
from handler.kernels.primitives import BITS, BITS_FLOAT32, elements, integers, load, share_of, store
from handler.kernels.team import NUM_COMMON, NUM_ROWS
from handler.kernels.vectors import LANES

# After the common arguments: addresses of rows, then what stays.
X, SLOTS, SHRUNK = range(NUM_COMMON, NUM_COMMON + 3)
DOWNS, NUM_INPUTS, WIDTH, MOST_GROUPS = range(NUM_COMMON + 3, NUM_COMMON + 7)
NUM_ARGUMENTS = NUM_COMMON + 7


@functools.cache
def compile_shrink(dtype: torch.dtype, paired: bool) -> int:
    """The address of the kernel for activations and matrices of `dtype`; `paired`: A has pairs of bfloat16 inputs.

    `DOWNS` is the address of a table int64 `[slots, 3]`: address of A as `shrink_tile` takes it, number of groups,
    address of what each of the outputs is multiplied by, float32 `[groups * 16]`, and then of what is added to it.
    `MOST_GROUPS` is the address of the largest number of groups.
    """
    bits, pairs = BITS[dtype], int(paired)
    size = bits // 8

    def kernel(arguments):  # pragma: no cover
        num_rows, count, width = arguments[NUM_ROWS], arguments[NUM_INPUTS], arguments[WIDTH]
        slots, downs = integers(arguments[SLOTS]), integers(arguments[DOWNS])
        item, end = share_of(arguments, num_rows * integers(arguments[MOST_GROUPS])[0])
        while item < end:
            group, row = item // num_rows, item % num_rows
            entry = slots[row] * ENTRY
            if entry < 0 or downs[entry] == 0 or group >= downs[entry + 1]:
                item += 1
                continue
            rows = run_of(slots, row, min(num_rows, row + end - item))
            out = arguments[SHRUNK] + (row * width + group * LANES) * 4
            x = arguments[X] + row * count * size
            weights = downs[entry] + group * count * LANES * size
            shrink_tile(rows, bits, pairs, x, count, weights, count, out, width)
            factors, groups = elements(downs[entry + 2], BITS_FLOAT32), downs[entry + 1]
            numbers = elements(out, BITS_FLOAT32)
            for r in range(rows):
                for lane in range(LANES):
                    place = group * LANES + lane
                    scaled = load(numbers, r * width + lane) * load(factors, place)
                    store(numbers, r * width + lane, scaled + load(factors, groups * LANES + place))
            item += rows

    return compile_kernel(kernel)
