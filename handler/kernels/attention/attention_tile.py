"""Inner loops of attention with AVX-512's bfloat16 dot products, in LLVM instructions.

Keys come in blocks of `KEY_BLOCK`, counted from a sequence's first token. A query's state is its largest score so far,
the sum of its weights and its sums of values; both sums are relative to that score, so a larger one scales them. All
sums have one order, whatever rows are computed together.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.vectors import (
    BFLOATS,
    FLOATS,
    IN_ORDER,
    INTS,
    LANES,
    LONGS,
    SHORTS,
    call,
    call_max,
    exp_of_negatives,
    folded,
    index,
    interleaved_halves,
    over_vectors,
    reduced,
    splat,
    store_rounded,
    vector_at,
)

# Keys scored at once, one in each lane, and keys between two looks at the largest score.
KEYS = LANES
KEY_BLOCK = 128
# Float32 numbers of a query's state before its sums of values: sums of weights by lanes, the largest score.
STATE = 2 * LANES

_LOWEST = ir.Constant(ir.FloatType(), float("-inf"))
_LOWESTS = ir.Constant(FLOATS, [float("-inf")] * LANES)
_ZEROS = ir.Constant(FLOATS, [0.0] * LANES)


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
            total = _ZEROS
            for d, part in enumerate(parts):
                key = vector_at(builder, keys, builder.add(start, index(d * 2 * LANES)), BFLOATS)
                total = call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [total, part, key])
            sums.append(total)
        scores = builder.fmul(sum_each(builder, sums), splat(builder, scale, FLOATS), flags=IN_ORDER)
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
            _added(builder, add, *(builder.shuffle_vector(one, other, mask) for mask in (low, high)))
            for one, other in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        half //= 2
    return vectors[0]


def _added(builder, add: str, one, other):
    """Sums of floats keep their order; those of integers have no flags."""
    return builder.fadd(one, other, flags=IN_ORDER) if add == "fadd" else getattr(builder, add)(one, other)


@intrinsic
def clear_state(_context, state, count):  # pragma: no cover
    """Set a query's state to that before its first key; `count` sums of values, a multiple of 16."""

    def generate(_context, builder, _signature, arguments):
        state, count = arguments

        def clear(_, place, so_far):
            builder.store(_ZEROS, place, align=4)
            return so_far

        vectors = builder.add(builder.udiv(count, index(LANES)), index(STATE // LANES))
        over_vectors(builder, state, vectors, _ZEROS, clear)
        builder.store(_LOWEST, builder.gep(state, [index(LANES)]))

    return types.void(state, types.int64), generate


@intrinsic
def weigh_keys(_context, scores, first, end, count, weights, state, width):  # pragma: no cover
    """Turn `scores` `[count]`, a multiple of 16 up to `KEY_BLOCK`, into bfloat16 `weights`, and update `state`.

    The query sees the keys from `first` to before `end`; others weigh 0. `width` sums of values are scaled.
    """

    def generate(_context, builder, _signature, arguments):
        scores, first, end, count, weights, state, width = arguments
        sees = builder.icmp_signed("<", first, end)
        with builder.if_else(sees) as (some, none):
            with some:
                low = builder.udiv(first, index(LANES))
                high = builder.udiv(builder.add(end, index(LANES - 1)), index(LANES))
                hide_others(builder, scores, first, end, low, high)
                _weigh_seen(builder, scores, low, high, weights, state, width)
                _clear_weights(builder, weights, index(0), low)
                _clear_weights(builder, weights, high, builder.udiv(count, index(LANES)))
            with none:
                _clear_weights(builder, weights, index(0), builder.udiv(count, index(LANES)))

    return types.void(scores, *[types.int64] * 3, weights, state, types.int64), generate


def hide_others(builder, scores, first, end, low, high) -> None:
    """Write -inf over scores before `first` in vector `low`, and from `end` on in the vector before `high`."""
    lanes = ir.Constant(LONGS, list(range(LANES)))
    for vector in (low, builder.sub(high, index(1))):
        start = builder.mul(vector, index(LANES))
        places = builder.add(lanes, splat(builder, start, LONGS))
        within = builder.and_(
            builder.icmp_signed(">=", places, splat(builder, first, LONGS)),
            builder.icmp_signed("<", places, splat(builder, end, LONGS)),
        )
        place = builder.bitcast(builder.gep(scores, [start]), FLOATS.as_pointer())
        builder.store(builder.select(within, builder.load(place, align=4), _LOWESTS), place, align=4)


def _weigh_seen(builder, scores, low, high, weights, state, width) -> None:
    """Weigh the scores of vectors `low` to before `high`, and scale what was summed before."""
    count, offset = builder.sub(high, low), builder.mul(low, index(LANES))
    scores, weights = builder.gep(scores, [offset]), builder.gep(weights, [offset])

    def find_largest(_, place, so_far):
        return call_max(builder, so_far, builder.load(place, align=4))

    found = reduced(builder, "fmax", over_vectors(builder, scores, count, _LOWESTS, find_largest))
    at = builder.gep(state, [index(LANES)])
    before = builder.load(at)
    largest = call(builder, "llvm.maxnum.f32", ir.FloatType(), [before, found])
    builder.store(largest, at)
    tops = splat(builder, largest, FLOATS)

    def weigh(i, place, so_far):
        score = builder.load(place, align=4)
        weight = exp_of_negatives(builder, builder.fsub(score, tops, flags=IN_ORDER))
        weight = builder.select(builder.fcmp_ordered("==", score, _LOWESTS), _ZEROS, weight)
        store_rounded(builder, weight, builder.gep(weights, [builder.mul(i, index(LANES))]))
        return builder.fadd(so_far, weight)

    total = over_vectors(builder, scores, count, _ZEROS, weigh)
    place = builder.bitcast(state, FLOATS.as_pointer())
    # NaN is unlike everything, so it scales.
    with builder.if_then(builder.fcmp_unordered("une", before, largest)):
        factor = exp_of_negatives(builder, builder.fsub(splat(builder, before, FLOATS), tops))
        builder.store(builder.fmul(builder.load(place, align=4), factor), place, align=4)

        def scale(_, place, so_far):
            builder.store(builder.fmul(builder.load(place, align=4), factor), place, align=4)
            return so_far

        sums = builder.gep(state, [index(STATE)])
        over_vectors(builder, sums, builder.udiv(width, index(LANES)), _ZEROS, scale)
    builder.store(builder.fadd(builder.load(place, align=4), total), place, align=4)


def _clear_weights(builder, weights, low, high) -> None:
    """Write zeros to vectors `low` to before `high`."""
    with cgutils.for_range_slice(builder, low, high, index(1), intp=ir.IntType(64)) as (vector, _):
        store_rounded(builder, _ZEROS, builder.gep(weights, [builder.mul(vector, index(LANES))]))


@intrinsic(prefer_literal=True)
def add_values(_context, head_dim, group, weights, values, stride, num_keys, states):  # pragma: no cover
    """Add weighted values to the sums of `group` queries' states, two keys at a time.

    `weights` bfloat16 `[group, KEY_BLOCK]`, 0 for a key that makes the number even; `values` bfloat16, keys `stride`
    apart. `head_dim`, a multiple of 32, and `group` are literal.
    """
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        weights, values, stride, num_keys, states = arguments[2:]

        def pair_at(i):
            return paired(builder, width, values, stride, i, num_keys)

        add_pairs(builder, width, group.literal_value, weights, pair_at, num_keys, states)

    return types.void(head_dim, group, weights, values, stride, num_keys, states), generate


def paired(builder, width: int, values, stride, pair, num_keys):
    """The values of two keys in the order of `interleaved_halves`: vectors of 16 dimensions of both.

    Past the last key the last one is read: whatever follows may be NaN.
    """
    first = builder.mul(pair, index(2))
    last, second = builder.sub(num_keys, index(1)), builder.add(first, index(1))
    second = builder.select(builder.icmp_signed("<", second, num_keys), second, last)
    starts, found = [builder.mul(key, stride) for key in (first, second)], []
    for d in range(0, width, 2 * LANES):
        both = [vector_at(builder, values, builder.add(start, index(d)), SHORTS) for start in starts]
        found += [builder.bitcast(vector, BFLOATS) for vector in interleaved_halves(builder, *both)]
    return found


def add_pairs(builder, width: int, num_queries: int, weights, pair_at, num_keys, states) -> None:
    """Emit `add_values` over pairs of keys; `pair_at(i)` gives their values as `paired` does."""
    num_pairs = builder.udiv(builder.add(num_keys, index(1)), index(2))
    pairs = builder.bitcast(weights, ir.IntType(32).as_pointer())
    places = [
        builder.bitcast(builder.gep(states, [index(q * (STATE + width) + STATE + d)]), FLOATS.as_pointer())
        for q in range(num_queries)
        for d in range(0, width, LANES)
    ]

    def add_pair(i, totals):
        vectors = pair_at(i)
        following: list[Any] = []
        for q in range(num_queries):
            weight = builder.load(builder.gep(pairs, [builder.add(i, index(q * KEY_BLOCK // 2))]), align=4)
            weight = builder.bitcast(splat(builder, weight, INTS), BFLOATS)
            for vector in vectors:
                old = totals[len(following)]
                following.append(call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [old, weight, vector]))
        return following

    before = [builder.load(place, align=4) for place in places]
    for place, total in zip(places, folded(builder, num_pairs, before, add_pair), strict=True):
        builder.store(total, place, align=4)


@intrinsic(prefer_literal=True)
def write_state(_context, head_dim, state, out):  # pragma: no cover
    """Write a query's result, bfloat16 `[head_dim]`, to `out`; `head_dim`, a multiple of 32, is literal."""
    width = head_dim.literal_value

    def generate(_context, builder, _signature, arguments):
        _, state, out = arguments
        total = reduced(builder, "fadd", vector_at(builder, state, index(0), FLOATS, 4))
        share = splat(builder, builder.fdiv(ir.Constant(ir.FloatType(), 1.0), total), FLOATS)
        for d in range(0, width, 2 * LANES):
            both = [vector_at(builder, state, index(STATE + d + part * LANES), FLOATS, 4) for part in range(2)]
            for half in range(2):
                # Eight dimensions at a time: four of the first vector, then four of the second.
                lanes = [8 * half + 4 * (i // 8) + LANES * (i // 4 % 2) + i % 4 for i in range(LANES)]
                vector = builder.shuffle_vector(*both, ir.Constant(INTS, lanes))
                store_rounded(builder, builder.fmul(vector, share), builder.gep(out, [index(d + half * LANES)]))

    return types.void(head_dim, state, out), generate
