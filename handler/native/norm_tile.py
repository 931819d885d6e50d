"""The root-mean-square norm of one row of bfloat16 in vectors, in LLVM's instructions."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from handler.native.tiles import BYTE, LONG, bytes_behind
from handler.native.vectors import FLOATS, LANES, call, index, load_rounded, reduced, splat, store_rounded

_BYTES = 2 * LANES
_FLOAT = ir.FloatType()
# Sums under way at a time: each takes four cycles.
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

        def add_squares(place, totals):
            following = []
            for i, total in enumerate(totals):
                x = load_rounded(builder, bytes_behind(builder, row, builder.add(place, index(i * _BYTES))))
                following.append(call(builder, "llvm.fma.v16f32", FLOATS, [x, x, total]))
            return following

        zeros = [ir.Constant(FLOATS, [0.0] * LANES)] * sums
        totals = _over_vectors(builder, num_vectors // sums, sums * _BYTES, zeros, add_squares)
        total = totals[0]
        for other in totals[1:]:
            total = builder.fadd(total, other)
        mean = builder.fdiv(reduced(builder, "fadd", total), ir.Constant(_FLOAT, float(num_vectors * LANES)))
        root = call(builder, "llvm.sqrt.f32", _FLOAT, [builder.fadd(mean, eps)])
        scale = splat(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), root), FLOATS)

        def write(place, _):
            for i in range(sums):
                x, times = (
                    load_rounded(builder, bytes_behind(builder, one, builder.add(place, index(i * _BYTES))))
                    for one in (row, weight)
                )
                to = bytes_behind(builder, out, builder.add(place, index(i * _BYTES)))
                store_rounded(builder, builder.fmul(builder.fmul(x, scale), times), to)
            return []

        _over_vectors(builder, num_vectors // sums, sums * _BYTES, [], write)

    return types.void(width, types.int64, types.int64, types.int64, types.float32), generate


def _over_vectors(builder, count: int, size: int, start, step):
    """`step(place, so_far)` for `count` places `size` bytes apart, from `start`; returns the last `so_far`."""
    before = builder.block
    head, after = builder.append_basic_block("vectors"), builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    place, so_far = builder.phi(LONG), [builder.phi(FLOATS) for _ in start]
    place.add_incoming(index(0), before)
    for one, first in zip(so_far, start, strict=True):
        one.add_incoming(first, before)
    following, next_place = step(place, so_far), builder.add(place, index(size))
    place.add_incoming(next_place, builder.block)
    for one, new in zip(so_far, following, strict=True):
        one.add_incoming(new, builder.block)
    builder.cbranch(builder.icmp_signed("<", next_place, index(count * size)), head, after)
    builder.position_at_end(after)
    return following
