"""Softmax of one query's scores, in LLVM instructions."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from handler.kernels.attention.attention_tile import hide_others
from handler.kernels.vectors import (
    FLOATS,
    LANES,
    call_max,
    exp_of_negatives,
    index,
    over_vectors,
    reduced,
    splat,
)


@intrinsic
def softmax_keys(_context, scores, first, end, padded):  # pragma: no cover
    """Turn scores `[first:end]` of `[padded]`, a multiple of 16, into weights whose sum is 1; the others are undefined.

    A NaN score makes all weights NaN.
    """

    def generate(_context, builder, _signature, arguments):
        scores, first, end, padded = arguments
        lowest = ir.Constant(FLOATS, [float("-inf")] * LANES)
        count, zero = builder.udiv(padded, index(LANES)), ir.Constant(FLOATS, [0.0] * LANES)
        hide_others(builder, scores, first, end, index(0), count)

        def find_largest(_, place, so_far):
            return call_max(builder, so_far, builder.load(place, align=4))

        largest = reduced(builder, "fmax", over_vectors(builder, scores, count, lowest, find_largest))
        largest = splat(builder, largest, FLOATS)

        def weigh(_, place, so_far):
            weight = exp_of_negatives(builder, builder.fsub(builder.load(place, align=4), largest))
            builder.store(weight, place, align=4)
            return builder.fadd(so_far, weight)

        total = reduced(builder, "fadd", over_vectors(builder, scores, count, zero, weigh))
        share = splat(builder, builder.fdiv(ir.Constant(ir.FloatType(), 1.0), total), FLOATS)

        def scale(_, place, so_far):
            builder.store(builder.fmul(builder.load(place, align=4), share), place, align=4)
            return so_far

        over_vectors(builder, scores, count, zero, scale)

    return types.void(scores, types.int64, types.int64, types.int64), generate
