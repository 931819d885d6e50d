"""Rows of activations interleaved for `block_tile`, in LLVM instructions."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.vectors import INTS, LANES, index, vector_at


@intrinsic
def interleave_eight(_context, source, stride, count, out):  # pragma: no cover
    """Write eight rows interleaved, int32 `[count, 8]`; `source` int32, rows `stride` apart.

    `count` is a multiple of 16.
    """

    def generate(_context, builder, _signature, arguments):
        source, stride, count, out = arguments
        sixteens = builder.udiv(count, index(LANES))
        with cgutils.for_range(builder, sixteens, intp=ir.IntType(64)) as loop:
            start = builder.mul(loop.index, index(LANES))
            rows = [
                [vector_at(builder, source, builder.add(builder.mul(stride, index(r)), start), INTS)] for r in range(8)
            ]
            while len(rows) > 1:
                chunk = 8 // len(rows)
                rows = [_interleaved(builder, rows[i], rows[i + 1], chunk) for i in range(0, len(rows), 2)]
            for i, vector in enumerate(rows[0]):
                place = builder.add(builder.mul(start, index(8)), index(i * LANES))
                builder.store(vector, builder.bitcast(builder.gep(out, [place]), INTS.as_pointer()), align=4)

    return types.void(source, stride, count, out), generate


def _interleaved(builder, one, other, chunk: int):
    """Interleave two sequences of vectors, `chunk` elements from each in turn."""
    out = []
    for i in range(2 * len(one)):
        start = i % 2 * LANES // 2
        lanes = [start + j for j in range(LANES // 2)]
        mask = []
        for j in range(0, LANES // 2, chunk):
            mask += lanes[j : j + chunk] + [LANES + lane for lane in lanes[j : j + chunk]]
        out.append(builder.shuffle_vector(one[i // 2], other[i // 2], ir.Constant(INTS, mask)))
    return out
