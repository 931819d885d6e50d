"""The inner loop of products with bfloat16 weights on a matrix unit: 32 rows by 32 outputs in four tiles."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.native.product_outputs import GROUPS
from handler.native.tiles import BYTE, LINE, LONG, TILE_BYTES, TILE_ROWS, bytes_behind, tile_call
from handler.native.vectors import LANES, index

# Groups of 16 outputs that go together.
PAIR = 2
# Rows that go together.
DENSE_ROWS = 2 * TILE_ROWS

# The tiles' numbers, by half of the rows, and products by group too.
_PRODUCTS, _ACTIVATIONS, _WEIGHTS = ((0, 1), (2, 3)), (4, 5), (6, 7)
# Tiles with the rows of the first half and of the second.
HALVES = (0, 1, 4), (2, 3, 5)

_OUT_ROW = GROUPS * LANES * 4


@intrinsic(prefer_literal=True)
def dense_tile(_context, halves, x, stride, weights, blocks, out):  # pragma: no cover
    """Write products of up to 16 rows, or 32 if `halves` (literal) is 2, by 32 outputs; a row's sums in one order.

    `x` bfloat16, rows `stride` bytes apart; `weights` int32 `[2, blocks, 16, 16]`; `out` float32, rows `GROUPS * 16`
    numbers apart. Addresses are integers.
    """
    count = halves.literal_value

    def generate(_context, builder, _signature, arguments):
        x, stride, weights, blocks, out = arguments[1:]
        x, weights, out = (builder.inttoptr(one, BYTE.as_pointer()) for one in (x, weights, out))
        for half in range(count):
            for group in range(PAIR):
                tile_call(builder, "tilezero", _PRODUCTS[half][group])
        with cgutils.for_range(builder, blocks, intp=LONG) as loop:
            _one_block(builder, count, x, stride, weights, blocks, loop.index)
        for half in range(count):
            for group in range(PAIR):
                place = bytes_behind(builder, out, index(half * TILE_ROWS * _OUT_ROW + group * LANES * 4))
                tile_call(builder, "tilestored64", _PRODUCTS[half][group], place, index(_OUT_ROW))

    return types.void(halves, x, stride, weights, blocks, out), generate


def _one_block(builder, count: int, x, stride, weights, blocks, block) -> None:
    for half in range(count):
        behind = builder.add(builder.mul(block, index(LINE)), builder.mul(stride, index(half * TILE_ROWS)))
        tile_call(builder, "tileloadd64", _ACTIVATIONS[half], bytes_behind(builder, x, behind), stride)
    for group in range(PAIR):
        passed = builder.add(block, builder.mul(blocks, ir.Constant(LONG, group)))
        place = bytes_behind(builder, weights, builder.mul(passed, index(TILE_BYTES)))
        tile_call(builder, "tileloadd64", _WEIGHTS[group], place, index(LINE))
    for half in range(count):
        for group in range(PAIR):
            tile_call(builder, "tdpbf16ps", _PRODUCTS[half][group], _ACTIVATIONS[half], _WEIGHTS[group])
