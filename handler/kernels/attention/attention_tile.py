"""Inner loops of attention with AVX-512's bfloat16 dot products, in LLVM instructions."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from handler.kernels.vectors import (
    BFLOATS,
    FLOATS,
    INTS,
    LANES,
    LONGS,
    call,
    call_max,
    exp_of_negatives,
    folded,
    index,
    multiply_add,
    over_vectors,
    reduced,
    splat,
    vector_at,
)

# Keys scored at once, one in each lane.
KEYS = LANES


@intrinsic(prefer_literal=True)
def score_keys(_context, head_dim, query, keys, stride, scale, out):  # pragma: no cover
    """Scores of one query and 16 keys: float32 `[16]` to `out`.

    `query` bfloat16 `[head_dim]`; `keys` the first of 16, `stride` elements apart. `head_dim`, a multiple of 32, is
    literal.
    """
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        _, query, keys, stride, scale, out = arguments
        parts = [vector_at(builder, query, index(d), BFLOATS) for d in range(0, width, 2 * LANES)]
        sums = []
        for j in range(KEYS):
            start = builder.mul(stride, index(j))
            total = ir.Constant(FLOATS, [0.0] * LANES)
            for d, part in enumerate(parts):
                key = vector_at(builder, keys, builder.add(start, index(d * 2 * LANES)), BFLOATS)
                total = call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [total, part, key])
            sums.append(total)
        scores = builder.fmul(sum_each(builder, sums), splat(builder, scale, FLOATS))
        builder.store(scores, builder.bitcast(out, FLOATS.as_pointer()), align=4)

    return types.void(head_dim, query, keys, stride, types.float32, out), generate


def sum_each(builder, vectors, add: str = "fadd"):
    """The lane sums of 16 vectors, as one vector: fold halves of two vectors into one, four times.

    `add` is the name of the builder's addition.
    """
    half = LANES // 2
    while half:
        starts = range(0, LANES, 2 * half)
        lanes = [start + i for start in starts for i in range(half)]
        low = ir.Constant(INTS, lanes + [LANES + lane for lane in lanes])
        high = ir.Constant(INTS, [lane + half for lane in lanes] + [LANES + half + lane for lane in lanes])
        vectors = [
            getattr(builder, add)(builder.shuffle_vector(one, other, low), builder.shuffle_vector(one, other, high))
            for one, other in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        half //= 2
    return vectors[0]


@intrinsic
def softmax_keys(_context, scores, first, end, padded):  # pragma: no cover
    """Turn scores `[first:end]` of `[padded]`, a multiple of 16, into weights whose sum is 1; the others are undefined.

    A NaN score makes all weights NaN.
    """

    def generate(_context, builder, _signature, arguments):
        scores, first, end, padded = arguments
        lowest = ir.Constant(FLOATS, [float("-inf")] * LANES)
        _hide_others(builder, scores, first, end, padded, lowest)
        count, zero = builder.udiv(padded, index(LANES)), ir.Constant(FLOATS, [0.0] * LANES)

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


def _hide_others(builder, scores, first, end, padded, lowest) -> None:
    """Write `lowest` over scores before `first` in the first vector, and from `end` on in the last."""
    lanes = ir.Constant(LONGS, list(range(LANES)))
    for start in (index(0), builder.sub(padded, index(LANES))):
        places = builder.add(lanes, splat(builder, start, LONGS))
        within = builder.and_(
            builder.icmp_signed(">=", places, splat(builder, first, LONGS)),
            builder.icmp_signed("<", places, splat(builder, end, LONGS)),
        )
        place = builder.bitcast(builder.gep(scores, [start]), FLOATS.as_pointer())
        builder.store(builder.select(within, builder.load(place, align=4), lowest), place, align=4)


@intrinsic(prefer_literal=True)
def weigh_values(_context, head_dim, group, weights, weights_stride, values, stride, num_keys, out):  # pragma: no cover
    """Weighted sums of values: float32 `[group, head_dim]` to `out`.

    `weights` float32 `[group, num_keys]`, rows `weights_stride` apart; `values` bfloat16, keys `stride` apart.
    `head_dim`, a multiple of 32, and `group` are literal.
    """
    width, heads = head_dim.literal_value, group.literal_value
    per_head = width // LANES

    def generate(_context, builder, _signature, arguments):
        weights, weights_stride, values, stride, num_keys, out = arguments[2:]

        def add_key(j, totals):
            start = builder.mul(j, stride)
            pieces, following = [], []
            for d in range(0, width, 2 * LANES):
                pieces += _even_and_odd(builder, vector_at(builder, values, builder.add(start, index(d)), INTS))
            for g in range(heads):
                place = builder.add(builder.mul(weights_stride, index(g)), j)
                weight = splat(builder, builder.load(builder.gep(weights, [place])), FLOATS)
                for piece, old in zip(pieces, totals[g * per_head : (g + 1) * per_head], strict=True):
                    following.append(multiply_add(builder, weight, piece, old))
            return following

        zeros = [ir.Constant(FLOATS, [0.0] * LANES)] * (heads * per_head)
        totals = folded(builder, num_keys, zeros, add_key)
        low = ir.Constant(INTS, [lane // 2 + LANES * (lane % 2) for lane in range(LANES)])
        high = ir.Constant(INTS, [LANES // 2 + lane // 2 + LANES * (lane % 2) for lane in range(LANES)])
        for i in range(0, heads * per_head, 2):
            for part, mask in enumerate((low, high)):
                place = builder.bitcast(builder.gep(out, [index((i + part) * LANES)]), FLOATS.as_pointer())
                builder.store(builder.shuffle_vector(totals[i], totals[i + 1], mask), place, align=4)

    kinds = (head_dim, group, weights, weights_stride, values, stride, num_keys, out)
    return types.void(*kinds), generate


def _even_and_odd(builder, pairs):
    """32 bfloat16 numbers, two in each lane, as float32: those at even positions, then those at odd ones."""
    even = builder.shl(pairs, ir.Constant(INTS, [16] * LANES))
    odd = builder.and_(pairs, ir.Constant(INTS, [0xFFFF0000] * LANES))
    return [builder.bitcast(even, FLOATS), builder.bitcast(odd, FLOATS)]
