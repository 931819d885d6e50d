"""Sums of the activations that share a scale, in LLVM instructions.

Eight interleaved rows and a row alone add in the same order, so that a row has the same bits both ways: first the two
inputs of a pair, then pairs that are 2, 4, 8 and 1 apart, then blocks in turn.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.product.block_form import BLOCK
from handler.kernels.vectors import BFLOATS, FLOATS, INTS, LANES, call, index, vector_at

_LONG = ir.IntType(64)
# Round to nearest, whatever is set: an instruction of its own, which the compiler does not reorder.
_TO_NEAREST = ir.Constant(ir.IntType(32), 8)
_ROWS = 8
# Vectors of a block of eight interleaved rows: two pairs each.
_VECTORS = BLOCK // 2 * _ROWS // LANES
# 1 in bfloat16, twice.
_ONES = 0x3F803F80


def _plus(builder, one, other):
    """The sum of two vectors, never reordered with others, unlike `fadd` in a kernel with fast math."""
    return call(builder, "llvm.x86.avx512.add.ps.512", FLOATS, [one, other, _TO_NEAREST])


def _pair_sums(builder, pairs):
    """The sum of each lane's two numbers."""
    ones = builder.bitcast(ir.Constant(INTS, [_ONES] * LANES), BFLOATS)
    zeros = ir.Constant(FLOATS, [0.0] * LANES)
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [zeros, builder.bitcast(pairs, BFLOATS), ones])


def _plus_other_lanes(builder, vector, distance: int):
    """Each lane plus that whose number differs in the bit `distance`."""
    mask = ir.Constant(INTS, [lane ^ distance for lane in range(LANES)])
    return _plus(builder, vector, builder.shuffle_vector(vector, vector, mask))


def _added(builder, vectors):
    """The sum of a power of two of vectors, neighbours first."""
    while len(vectors) > 1:
        vectors = [_plus(builder, vectors[i], vectors[i + 1]) for i in range(0, len(vectors), 2)]
    return vectors[0]


def _sums_of_eight(builder, pairs, block, parts: int):
    """For each scale of a block: vectors whose lanes r and r + 8 are both the sum of row r."""
    first = builder.mul(block, index(_VECTORS * LANES))
    found = [
        _pair_sums(builder, vector_at(builder, pairs, builder.add(first, index(i * LANES)), INTS, 4))
        for i in range(_VECTORS)
    ]
    each = _VECTORS // parts
    return [_plus_other_lanes(builder, _added(builder, found[i : i + each]), _ROWS) for i in range(0, _VECTORS, each)]


def _sums_of_one(builder, source, block, parts: int):
    """For each scale of a block, a vector; lane `part * 16 / parts` of each is the sum of scale `part`."""
    vector = _pair_sums(builder, vector_at(builder, source, builder.mul(block, index(LANES)), INTS, 4))
    for distance in (2, 4, 8, 1) if parts == 1 else (2, 4, 1):
        vector = _plus_other_lanes(builder, vector, distance)
    return [vector] * parts


def _summed(builder, count, span: int, parts: int, of_block, write) -> None:
    """For each of `count` scales, or blocks of `parts` scales, call `write(number, part, sum)`."""
    with cgutils.for_range(builder, count, intp=_LONG) as loop:
        first = builder.mul(loop.index, index(span))
        sums = of_block(first)
        for i in range(1, span):
            sums = [_plus(builder, sums[0], of_block(builder.add(first, index(i)))[0])]
        for part, total in enumerate(sums):
            write(builder.add(builder.mul(loop.index, index(parts)), index(part)), part, total)


@intrinsic(prefer_literal=True)
def sum_eight(_context, inputs, pairs, count, out):  # pragma: no cover
    """Write sums of `inputs` inputs each, a literal, as float32 `[scales, 8]`; `pairs` as from `interleave_eight`.

    `count` is the number of blocks of 32 inputs, or of scales if those are fewer.
    """
    span, parts = max(1, inputs.literal_value // BLOCK), max(1, BLOCK // inputs.literal_value)

    def generate(_context, builder, _signature, arguments):
        _, pairs, count, out = arguments
        half = ir.VectorType(ir.FloatType(), _ROWS)
        lower = ir.Constant(ir.VectorType(ir.IntType(32), _ROWS), list(range(_ROWS)))

        def write(number, _part, total):
            place = builder.gep(out, [builder.mul(number, index(_ROWS))])
            sums = builder.shuffle_vector(total, total, lower)
            builder.store(sums, builder.bitcast(place, half.as_pointer()), align=4)

        _summed(builder, count, span, parts, lambda block: _sums_of_eight(builder, pairs, block, parts), write)

    return types.void(inputs, pairs, types.int64, out), generate


@intrinsic(prefer_literal=True)
def sum_row(_context, inputs, source, count, out, stride):  # pragma: no cover
    """Write one row's sums of `inputs` inputs each, `stride` numbers apart; `source` int32, two bfloat16 in each.

    `inputs` and `count` as in `sum_eight`.
    """
    span, parts = max(1, inputs.literal_value // BLOCK), max(1, BLOCK // inputs.literal_value)

    def generate(_context, builder, _signature, arguments):
        _, source, count, out, stride = arguments

        def write(number, part, total):
            found = builder.extract_element(total, ir.Constant(ir.IntType(32), part * LANES // parts))
            builder.store(found, builder.gep(out, [builder.mul(number, stride)]))

        _summed(builder, count, span, parts, lambda block: _sums_of_one(builder, source, block, parts), write)

    return types.void(inputs, source, types.int64, out, types.int64), generate
