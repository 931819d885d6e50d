"""Products on the matrix unit (AMX), with weights of 4 and 8 bits or bfloat16.

The order of a row's sums does not depend on other rows. docs/decisions/0019.
"""

from __future__ import annotations

import functools

from torch import Tensor

from handler.kernels.compiler import compile_kernel
from handler.kernels.low_rank.added import add_pair
from handler.kernels.primitives import BITS_FLOAT32, called, elements, fetch_to_write, integers, share_of, thread_number
from handler.kernels.product.product_outputs import CODES, NUM_BLOCKS, NUM_GROUPS, OUT, SCALES, SHRUNK, X, write_outputs
from handler.kernels.product.product_tile import (
    BLOCKS,
    BY_ROWS,
    FROM_TILES,
    LINE_BYTES,
    MASK,
    NEXT_SCALES,
    NEXT_WEIGHTS,
    PAIR,
    RING,
    ROOM,
    ROOM_BLOCK_BYTES,
    ROOM_BLOCKS,
    ROOM_BYTES,
    STEP,
    TO_TILES,
    WEIGHT_SCALES,
    WEIGHTS,
    multiply_tiles,
    turn_tile,
)
from handler.kernels.product.unpacked_tile import SCALES_BYTES, codes_bytes
from handler.kernels.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE, TILES
from handler.kernels.tiles import LINE, TILE_BYTES, TILE_ROWS, configure_tiles, release_tiles, tile_shapes
from handler.kernels.vectors import LANES

# Rows multiplied together.
_TOGETHER = PAIR * TILE_ROWS
# Activations that a thread holds as tiles at a time, few enough for its L2 cache: blocks of all rows, and rows.
_MOST_BLOCKS, _MOST_ROWS = 1 << 14, 256
# Bytes of a line of a tile of one row.
_NARROW = 4
_OUT_ROW = PAIR * LANES * 4
_PLAN_BYTES = 2 * LINE


def matrix_scratch(num_rows: int, blocks: int) -> int:
    """Float32 elements of scratch that a thread needs: products and activations as tiles, products as rows, weights."""
    chunks = -(-min(num_rows, _MOST_ROWS, max(_MOST_BLOCKS // blocks, _TOGETHER)) // TILE_ROWS)
    tiles = chunks * blocks + PAIR * PAIR
    room = ROOM_BYTES + max(blocks, RING) * ROOM_BLOCK_BYTES
    return (LINE + _PLAN_BYTES + tiles * TILE_BYTES + _TOGETHER * _OUT_ROW + room) // 4


def matrix_shapes(num_rows: int) -> int:
    """The address of the tile shapes for `num_rows` rows; a single row is not padded to 16."""
    return _shapes(num_rows == 1).data_ptr()


@functools.cache
def _shapes(one_row: bool) -> Tensor:
    return tile_shapes({}, dict.fromkeys(BY_ROWS, _NARROW) if one_row else {})


@called
def _plan_memory(plan, found_at, num_rows, blocks, x):  # pragma: no cover
    """Write the plan's entries that all weights share; returns the address of activations as tiles, written or not."""
    # With further rows, unpacked weights are kept for them.
    many = num_rows > _TOGETHER
    plan[BLOCKS], plan[MASK], plan[ROOM_BLOCKS] = blocks, -1 if many else RING - 1, blocks if many else RING
    plan[TO_TILES] = found_at + _TOGETHER * _OUT_ROW
    plan[ROOM] = plan[TO_TILES] + PAIR * PAIR * TILE_BYTES
    plan[STEP], plan[LINE_BYTES] = TILE_BYTES, LINE
    if num_rows > 1:
        return plan[ROOM] + ROOM_BYTES + plan[ROOM_BLOCKS] * ROOM_BLOCK_BYTES
    # A tile one row wide is a block of that row, and products come out as rows.
    plan[TO_TILES], plan[STEP], plan[LINE_BYTES] = found_at, LINE, _NARROW
    return x


@called
def _turn_rows(x, num_rows, blocks, out):  # pragma: no cover
    """Transpose activations to tiles, `[rows / 16, blocks]` of pairs of inputs by rows."""
    stride = blocks * LINE
    for first in range(0, num_rows, TILE_ROWS):
        for block in range(blocks):
            source, tile = x + first * stride + block * LINE, out + (first // TILE_ROWS * blocks + block) * TILE_BYTES
            turn_tile(source, stride, num_rows - 1 - first, tile, LINE)


@called
def _turn_products(tiles, num_rows, out):  # pragma: no cover
    """Transpose products of 32 outputs to float32 rows."""
    for first in range(0, num_rows, TILE_ROWS):
        for group in range(PAIR):
            source = tiles + (first // TILE_ROWS * PAIR + group) * TILE_BYTES
            turn_tile(source, LINE, TILE_ROWS - 1, out + first * _OUT_ROW + group * (LANES * 4), _OUT_ROW)


@functools.cache
def compile_matrix_products(bits: int) -> int:
    """The address of the kernel for weights of `bits`, 16 for bfloat16."""
    size = codes_bytes(bits)

    def kernel(arguments):  # pragma: no cover
        num_rows, num_pairs, blocks = arguments[NUM_ROWS], arguments[NUM_GROUPS] // PAIR, arguments[NUM_BLOCKS]
        address = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE] + LINE - 1
        plan_at = address - address % LINE
        plan, found_at = integers(plan_at), plan_at + _PLAN_BYTES
        found, x = elements(found_at, BITS_FLOAT32), _plan_memory(plan, found_at, num_rows, blocks, arguments[X])
        out, out_stride, turned = arguments[OUT], num_pairs * LINE, -1
        configure_tiles(arguments[TILES])
        most = min(max(_MOST_BLOCKS // blocks // _TOGETHER * _TOGETHER, _TOGETHER), _MOST_ROWS)
        begin, end = share_of(arguments, num_pairs * -(-num_rows // most))
        for item in range(begin, end):
            first, pair = item // num_pairs * most, item % num_pairs
            here = min(num_rows - first, most)
            if num_rows > 1 and turned != first:
                _turn_rows(arguments[X] + first * blocks * LINE, here, blocks, x)
                turned = first
            after = (item + 1) % num_pairs
            plan[WEIGHTS] = arguments[CODES] + pair * PAIR * blocks * size
            plan[WEIGHT_SCALES] = arguments[SCALES] + pair * PAIR * blocks * SCALES_BYTES
            plan[NEXT_WEIGHTS] = arguments[CODES] + after * PAIR * blocks * size
            plan[NEXT_SCALES] = arguments[SCALES] + after * PAIR * blocks * SCALES_BYTES
            for row in range(0, here, _TOGETHER):
                rows = min(here - row, _TOGETHER)
                fetch_to_write(out + (first + row) * out_stride + pair * LINE, rows, out_stride)
                plan[FROM_TILES] = x + row // TILE_ROWS * blocks * TILE_BYTES
                if row == 0 and rows > TILE_ROWS:
                    multiply_tiles(bits, 2, 1, plan)
                elif row == 0:
                    multiply_tiles(bits, 1, 1, plan)
                elif rows > TILE_ROWS:
                    multiply_tiles(bits, 2, 0, plan)
                else:
                    multiply_tiles(bits, 1, 0, plan)
                if num_rows > 1:
                    _turn_products(plan[TO_TILES], rows, found_at)
                if arguments[SHRUNK] != 0:
                    add_pair(arguments, found_at, rows, first + row, pair * PAIR)
                write_outputs(arguments, found, rows, PAIR, first + row, pair * PAIR)
        release_tiles()

    return compile_kernel(kernel)
