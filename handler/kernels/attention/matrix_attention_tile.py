"""Inner loops of attention on the matrix unit, in LLVM instructions.

Up to 16 queries, heads of one or several tokens, are the columns: scores and weights of a key are contiguous, one for
each query. Keys come in blocks of 32.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.tiles import BYTE, LINE, LONG, TILE_BYTES, TILE_ROWS, bytes_behind, tile_call
from handler.kernels.vectors import (
    BFLOATS,
    FLOATS,
    INTS,
    LANES,
    SHORTS,
    call,
    call_max,
    exp_of_finite,
    fetch,
    index,
    interleaved_halves,
    over_vectors,
    splat,
    store_rounded,
    transposed,
    vector_at,
)

# Keys whose values are multiplied together.
KEYS_TOGETHER = 2 * TILE_ROWS
# Dimensions of a head summed at a time, in tiles of 16.
DIMS_TOGETHER = 64

# Tile numbers. Scores: scores, keys (two in turn), four queries. Sums: four sums, weights, values (two in turn).
_SCORES, _KEYS, _QUERIES = 0, (1, 6), 2
_SUMS, _WEIGHTS, _VALUES = 0, 4, 5

_LINE = index(LINE)


@intrinsic(prefer_literal=True)
def score_columns(_context, head_dim, keys, values, stride, near, queries, num_keys, scores):  # pragma: no cover
    """Scores of 16 columns and `num_keys` keys, a multiple of 16: float32 `[num_keys, 16]` to `scores`.

    `keys` bfloat16, `stride` bytes apart; `queries` int32 `[head_dim / 32, 16, 16]`, pairs of numbers by columns;
    `head_dim`, a multiple of 32 up to 128, is literal. `near` bytes of later keys and of `values` are prefetched.
    Addresses are integers.
    """
    parts = head_dim.literal_value // (2 * LANES)

    def generate(_context, builder, _signature, arguments):
        keys, values, stride, near, queries, num_keys, scores = arguments[1:]
        pointer = BYTE.as_pointer()
        keys, values, queries, scores = (builder.inttoptr(one, pointer) for one in (keys, values, queries, scores))
        for part in range(parts):
            place = bytes_behind(builder, queries, index(part * TILE_BYTES))
            tile_call(builder, "tileloadd64", _QUERIES + part, place, _LINE)
        with cgutils.for_range(builder, builder.udiv(num_keys, index(TILE_ROWS)), intp=LONG) as loop:
            tile_call(builder, "tilezero", _SCORES)
            first = builder.mul(builder.mul(loop.index, index(TILE_ROWS)), stride)
            with cgutils.for_range_slice(builder, index(0), near, _LINE, intp=LONG) as (line, _):
                place = builder.add(first, line)
                for row in range(TILE_ROWS):
                    here = builder.add(place, builder.mul(stride, index(row)))
                    later = builder.add(here, builder.mul(stride, index(TILE_ROWS)))
                    fetch(builder, bytes_behind(builder, keys, later))
                    fetch(builder, bytes_behind(builder, values, here))
            for part in range(parts):
                place = bytes_behind(builder, keys, builder.add(first, index(part * LINE)))
                tile_call(builder, "tileloadd64", _KEYS[part % 2], place, stride)
                tile_call(builder, "tdpbf16ps", _SCORES, _KEYS[part % 2], _QUERIES + part)
            place = bytes_behind(builder, scores, builder.mul(loop.index, index(TILE_BYTES)))
            tile_call(builder, "tilestored64", _SCORES, place, _LINE)

    kinds = (head_dim, keys, values, stride, near, queries, num_keys, scores)
    return types.void(*kinds), generate


@intrinsic
def weigh_columns(_context, scores, scale, limits, num_keys, shares):  # pragma: no cover
    """Turn `scores` float32 `[num_keys, 16]` into weights, the largest 1; `shares` gets 1 / their sums.

    `limits` int32 `[2, 16]`: a column sees keys from the first number to before the second; others weigh 0.
    """

    def generate(_context, builder, _signature, arguments):
        scores, scale, limits, num_keys, shares = arguments
        scale = splat(builder, scale, FLOATS)
        first, end = (vector_at(builder, limits, index(i * LANES), INTS, 4) for i in range(2))
        lowest = ir.Constant(FLOATS, [float("-inf")] * LANES)
        zero = ir.Constant(FLOATS, [0.0] * LANES)

        def largest(j, place, so_far):
            place_of = splat(builder, builder.trunc(j, ir.IntType(32)), INTS)
            seen = builder.and_(builder.icmp_signed(">=", place_of, first), builder.icmp_signed("<", place_of, end))
            score = builder.select(seen, builder.fmul(builder.load(place, align=64), scale), lowest)
            builder.store(score, place, align=64)
            return call_max(builder, so_far, score)

        top = over_vectors(builder, scores, num_keys, lowest, largest)

        def weigh(_, place, so_far):
            score = builder.load(place, align=64)
            weight = exp_of_finite(builder, builder.fsub(score, top))
            weight = builder.select(builder.fcmp_ordered("==", score, lowest), zero, weight)
            builder.store(weight, place, align=64)
            return builder.fadd(so_far, weight)

        total = over_vectors(builder, scores, num_keys, zero, weigh)
        share = builder.fdiv(ir.Constant(FLOATS, [1.0] * LANES), total)
        builder.store(share, builder.bitcast(shares, FLOATS.as_pointer()), align=64)

    return types.void(scores, types.float32, limits, types.int64, shares), generate


@intrinsic(prefer_literal=True)
def sum_values(_context, dims, weights, values, stride, num_keys, room, out):  # pragma: no cover
    """Weighted sums of values: float32 `[dims / 16, 16, 16]`, by 16 dimensions, columns, dimensions, to `out`.

    `weights` float32 `[num_keys up to a multiple of 32, 16]`, zero from `num_keys` on; `values` bfloat16, `stride`
    bytes apart, not read from `num_keys` on; `room` `1 + dims / 16` tiles. `dims`, a multiple of 32 up to 64, is
    literal. Each 32 dimensions are in the order of `interleaved_halves`.
    """
    tiles = dims.literal_value // LANES

    def generate(_context, builder, _signature, arguments):
        weights, values, stride, num_keys, room, out = arguments[1:]
        weights, values, room, out = (builder.inttoptr(one, BYTE.as_pointer()) for one in (weights, values, room, out))
        for tile in range(tiles):
            tile_call(builder, "tilezero", _SUMS + tile)
        rounds = builder.udiv(builder.add(num_keys, index(KEYS_TOGETHER - 1)), index(KEYS_TOGETHER))
        with cgutils.for_range(builder, rounds, intp=LONG) as loop:
            key = builder.mul(loop.index, index(KEYS_TOGETHER))
            _round_weights(builder, bytes_behind(builder, weights, builder.mul(key, _LINE)), room)
            here = bytes_behind(builder, values, builder.mul(key, stride))
            _pair_values(builder, tiles, here, stride, builder.sub(num_keys, key), room)
            tile_call(builder, "tileloadd64", _WEIGHTS, room, _LINE)
            for tile in range(tiles):
                place = bytes_behind(builder, room, index((1 + tile) * TILE_BYTES))
                tile_call(builder, "tileloadd64", _VALUES + tile % 2, place, _LINE)
                tile_call(builder, "tdpbf16ps", _SUMS + tile, _WEIGHTS, _VALUES + tile % 2)
        for tile in range(tiles):
            tile_call(
                builder, "tilestored64", _SUMS + tile, bytes_behind(builder, out, index(tile * TILE_BYTES)), _LINE
            )

    kinds = (dims, weights, values, stride, num_keys, room, out)
    return types.void(*kinds), generate


def _round_weights(builder, weights, room) -> None:
    """Write weights of 32 keys by 16 columns as bfloat16 `[16, 32]` to `room`."""
    rows = []
    for pair in range(TILE_ROWS):
        one, other = (vector_at(builder, weights, index((2 * pair + i) * LINE), FLOATS, 64) for i in range(2))
        both = call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, [other, one])
        mask = ir.Constant(
            ir.VectorType(ir.IntType(32), 2 * LANES), [i // 2 + LANES * (i % 2) for i in range(2 * LANES)]
        )
        shorts = builder.bitcast(both, SHORTS)
        rows.append(builder.bitcast(builder.shuffle_vector(shorts, shorts, mask), INTS))
    for i, row in enumerate(transposed(builder, rows)):
        builder.store(row, builder.bitcast(bytes_behind(builder, room, index(i * LINE)), INTS.as_pointer()), align=64)


def _pair_values(builder, tiles: int, values, stride, num_keys, room) -> None:
    """Write values of `num_keys` keys as tiles after the first of `room`, two keys in each lane, zeros up to 32."""
    nothing = ir.Constant(SHORTS, [0] * 2 * LANES)
    with cgutils.for_range(builder, index(TILE_ROWS), intp=LONG) as loop:
        places = [builder.add(builder.mul(loop.index, index(2)), index(i)) for i in range(2)]
        known = [builder.icmp_signed("<", place, num_keys) for place in places]
        # For a missing key the first one is read and not used.
        starts = [
            bytes_behind(builder, values, builder.mul(builder.select(there, place, index(0)), stride))
            for there, place in zip(known, places, strict=True)
        ]
        for half in range(tiles // 2):
            one, other = (
                builder.select(there, vector_at(builder, start, index(half * LINE), SHORTS), nothing)
                for there, start in zip(known, starts, strict=True)
            )
            for i, both in enumerate(interleaved_halves(builder, one, other)):
                behind = builder.add(builder.mul(loop.index, _LINE), index((1 + 2 * half + i) * TILE_BYTES))
                place = builder.bitcast(bytes_behind(builder, room, behind), SHORTS.as_pointer())
                builder.store(both, place, align=64)


@intrinsic(prefer_literal=True)
def write_column(_context, dims, sums, shares, column, out, at):  # pragma: no cover
    """Write one column of `sum_values`' output, times its share, as bfloat16 `[dims]` at index `at` of `out`."""
    halves = dims.literal_value // (2 * LANES)

    def generate(_context, builder, _signature, arguments):
        sums, shares, column, out, at = arguments[1:]
        sums = builder.inttoptr(sums, BYTE.as_pointer())
        share = splat(builder, builder.load(builder.gep(shares, [column])), FLOATS)
        row = builder.mul(column, _LINE)
        for half in range(halves):
            low, high = (
                vector_at(
                    builder,
                    bytes_behind(builder, sums, builder.add(row, index((2 * half + i) * TILE_BYTES))),
                    index(0),
                    FLOATS,
                    64,
                )
                for i in range(2)
            )
            for i in range(2):
                picked = _dims_in_order(i)
                numbers = builder.fmul(builder.shuffle_vector(low, high, ir.Constant(INTS, picked)), share)
                place = builder.gep(out, [builder.add(at, index((2 * half + i) * LANES))])
                store_rounded(builder, numbers, place)

    return types.void(dims, types.int64, shares, types.int64, out, types.int64), generate


def _dims_in_order(half: int) -> list[int]:
    """Positions of the 16 dimensions from `16 * half` on in the two vectors that `interleaved_halves` makes of 32."""
    found = []
    for dim in range(LANES * half, LANES * (half + 1)):
        eight, within = divmod(dim, 8)
        found.append(LANES * (within // 4) + 4 * eight + within % 4)
    return found
