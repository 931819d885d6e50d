"""Inner loops of attention for several queries at once: `attention_tile`'s sums, over keys and values read once."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.attention.attention_tile import KEY_BLOCK, KEYS, add_pairs, paired
from handler.kernels.vectors import (
    BFLOATS,
    FLOATS,
    IN_ORDER,
    INTS,
    LANES,
    call,
    index,
    splat,
    transposed,
    vector_at,
)

# Queries scored together.
SCORED = 4


@intrinsic(prefer_literal=True)
def turn_keys(_context, head_dim, keys, stride, out):  # pragma: no cover
    """Write 16 keys, `stride` elements apart, as int32 `[head_dim / 2, 16]`: pairs of numbers by keys."""
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        _, keys, stride, out = arguments
        for d in range(0, width, 2 * LANES):
            rows = [
                vector_at(builder, keys, builder.add(builder.mul(stride, index(j)), index(d)), INTS)
                for j in range(KEYS)
            ]
            for i, vector in enumerate(transposed(builder, rows)):
                place = builder.gep(out, [index((d // 2 + i) * LANES)])
                builder.store(vector, builder.bitcast(place, INTS.as_pointer()), align=4)

    return types.void(head_dim, keys, stride, out), generate


@intrinsic(prefer_literal=True)
def score_queries(_context, head_dim, queries, num_queries, keys, scale, out):  # pragma: no cover
    """Scores of `num_queries` queries, a multiple of `SCORED`, and 16 keys: float32 `[16]` to `out`, every `KEY_BLOCK`.

    `queries` bfloat16 `[num_queries, head_dim]`; `keys` as from `turn_keys`. Each sum has the order of `score_keys`.
    """
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        _, queries, num_queries, keys, scale, out = arguments
        pairs, scales = builder.bitcast(queries, ir.IntType(32).as_pointer()), splat(builder, scale, FLOATS)
        count = builder.udiv(num_queries, index(SCORED))
        with cgutils.for_range(builder, count, intp=ir.IntType(64)) as loop:
            first = builder.mul(loop.index, index(SCORED))
            own = builder.gep(pairs, [builder.mul(first, index(width // 2))])
            for q, total in enumerate(_sums(builder, width, own, keys, 0, 1)):
                place = builder.gep(out, [builder.mul(builder.add(first, index(q)), index(KEY_BLOCK))])
                score = builder.fmul(total, scales, flags=IN_ORDER)
                builder.store(score, builder.bitcast(place, FLOATS.as_pointer()), align=4)

    return types.void(head_dim, queries, num_queries, keys, types.float32, out), generate


def _sums(builder, width: int, queries, keys, lane: int, step: int):
    """For each of `SCORED` queries, what folding leaves in a lane of `score_keys`: the sums of every `step`-th lane."""
    if step < LANES:
        halves = [_sums(builder, width, queries, keys, lane + part * step, 2 * step) for part in range(2)]
        return [builder.fadd(one, other, flags=IN_ORDER) for one, other in zip(*halves, strict=True)]
    totals = [ir.Constant(FLOATS, [0.0] * LANES)] * SCORED
    for pair in range(lane, width // 2, LANES):
        key = vector_at(builder, keys, index(pair * LANES), BFLOATS)
        for q in range(SCORED):
            number = builder.load(builder.gep(queries, [index(q * width // 2 + pair)]), align=2)
            given = builder.bitcast(splat(builder, number, INTS), BFLOATS)
            totals[q] = call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [totals[q], key, given])
    return totals


@intrinsic(prefer_literal=True)
def pair_values(_context, head_dim, values, stride, num_keys, out):  # pragma: no cover
    """Write `num_keys` values, `stride` elements apart, as `paired` does: bfloat16 `[pairs, 2 * head_dim]`."""
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        _, values, stride, num_keys, out = arguments
        count = builder.udiv(builder.add(num_keys, index(1)), index(2))
        with cgutils.for_range(builder, count, intp=ir.IntType(64)) as loop:
            to = builder.mul(loop.index, index(2 * width))
            for i, vector in enumerate(paired(builder, width, values, stride, loop.index, num_keys)):
                place = builder.gep(out, [builder.add(to, index(2 * LANES * i))])
                builder.store(vector, builder.bitcast(place, BFLOATS.as_pointer()), align=2)

    return types.void(head_dim, values, stride, num_keys, out), generate


@intrinsic(prefer_literal=True)
def add_paired_values(_context, head_dim, num_queries, weights, pairs, num_keys, states):  # pragma: no cover
    """`add_values` for `num_queries` queries, literal, over `pairs` as from `pair_values`."""
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        weights, pairs, num_keys, states = arguments[2:]

        def pair_at(i):
            start = builder.mul(i, index(2 * width))
            return [
                vector_at(builder, pairs, builder.add(start, index(2 * d)), BFLOATS) for d in range(0, width, LANES)
            ]

        add_pairs(builder, width, num_queries.literal_value, weights, pair_at, num_keys, states)

    return types.void(head_dim, num_queries, weights, pairs, num_keys, states), generate
