"""RMS norm of one bfloat16 row by vectors, in LLVM instructions."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.tiles import BYTE, LONG, bytes_behind
from handler.kernels.vectors import (
    FLOATS,
    LANES,
    call,
    folded,
    index,
    load_rounded,
    multiply_add,
    reduced,
    splat,
    store_rounded,
)

_BYTES = 2 * LANES
_FLOAT = ir.FloatType()
# Independent sums at a time: an addition takes four cycles.
_MOST_SUMS = 4


@intrinsic(prefer_literal=True)
def norm_row(_context, width, row, weight, out, eps):  # pragma: no cover
    """Write `row / sqrt(mean(row^2) + eps) * weight` to `out`, bfloat16 `[width]`, computed in float32, rounded once.

    `width`, a multiple of 16, is literal; `row`, `weight` and `out` are addresses.
    """
    num_vectors = width.literal_value // LANES
    sums = max(count for count in range(1, _MOST_SUMS + 1) if num_vectors % count == 0)

    def generate(_context, builder, _signature, arguments):
        row, weight, out = (builder.inttoptr(one, BYTE.as_pointer()) for one in arguments[1:4])
        eps = arguments[4]

        rounds = index(num_vectors // sums)

        def at(address, number, i: int):
            """Vector `i` of a round, from an address."""
            passed = builder.add(builder.mul(number, index(sums)), index(i))
            return bytes_behind(builder, address, builder.mul(passed, index(_BYTES)))

        def add_squares(number, totals):
            found = [load_rounded(builder, at(row, number, i)) for i in range(sums)]
            return [multiply_add(builder, x, x, total) for x, total in zip(found, totals, strict=True)]

        totals = folded(builder, rounds, [ir.Constant(FLOATS, [0.0] * LANES)] * sums, add_squares)
        total = totals[0]
        for other in totals[1:]:
            total = builder.fadd(total, other)
        mean = builder.fdiv(reduced(builder, "fadd", total), ir.Constant(_FLOAT, float(num_vectors * LANES)))
        root = call(builder, "llvm.sqrt.f32", _FLOAT, [builder.fadd(mean, eps)])
        scale = splat(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), root), FLOATS)

        with cgutils.for_range(builder, rounds, intp=LONG) as loop:
            for i in range(sums):
                x, times = (load_rounded(builder, at(one, loop.index, i)) for one in (row, weight))
                store_rounded(builder, builder.fmul(builder.fmul(x, scale), times), at(out, loop.index, i))

    return types.void(width, types.int64, types.int64, types.int64, types.float32), generate
