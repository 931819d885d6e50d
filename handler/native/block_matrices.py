"""Products with weights of 4 and 8 bits by the processor's matrix unit: 16 rows at a time from decoded tiles."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from handler.native.block_tile import BLOCK
from handler.native.compiler import compile_kernel
from handler.native.matrix_tile import (
    NARROW_TILES,
    ONES,
    RING,
    TILES_OF_THE_REST,
    block_sums,
    codes_at,
    matrix_tile,
)
from handler.native.memory import BITS_FLOAT32, bytes_at, called, elements, store, take_ticket
from handler.native.product_outputs import (
    CODES,
    GROUPS,
    NUM_BLOCKS,
    NUM_GROUPS,
    SCALES,
    X,
    write_outputs,
)
from handler.native.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE, THREAD, TICKET, TILES
from handler.native.tiles import (
    LINE,
    TILE_BYTES,
    TILE_ROWS,
    configure_tiles,
    load_tile,
    release_tiles,
    tile_shapes,
)
from handler.native.vectors import LANES

# Bytes of two inputs.
_PAIR = 4
# Blocks of weights that are kept unpacked for all rows: they and 16 rows of activations stay in the first cache.
_UNPACKED = 12


def matrices_scratch(num_rows: int, blocks: int) -> int:
    """Numbers of scratch that a thread needs: weights, products, and the sums of the rows' blocks."""
    rows = -(-num_rows // TILE_ROWS) * TILE_ROWS
    return LINE // 4 + (RING + _UNPACKED) * TILE_BYTES // 4 + rows * (blocks + GROUPS * LANES)


def matrices_shapes(num_rows: int) -> int:
    """The address of the tiles' shapes for `num_rows` rows, some of which are left by tiles of 16, and of 32 ones."""
    return _shapes(num_rows % TILE_ROWS or TILE_ROWS).data_ptr()


@functools.cache
def _shapes(rest: int) -> Tensor:
    shapes = tile_shapes(dict.fromkeys(TILES_OF_THE_REST, rest), dict.fromkeys(NARROW_TILES, _PAIR))
    return torch.cat((shapes, torch.ones(BLOCK, dtype=torch.bfloat16).view(torch.uint8)))


@called
def _chunk(rows, unpacks, codes, scales, x, stride, sums, blocks, weights, ring, totals):  # pragma: no cover
    """Add the products of up to 16 rows with some blocks of one group to `totals`, maybe unpacking the weights.

    Whether it does is literal in each call, so that the inner loop does not ask.
    """
    if unpacks:
        if rows == 16:
            matrix_tile(16, 0, 1, codes, scales, x, stride, sums, blocks, weights, ring, totals)
        elif rows > 8:
            matrix_tile(16, 1, 1, codes, scales, x, stride, sums, blocks, weights, ring, totals)
        elif rows > 4:
            matrix_tile(8, 1, 1, codes, scales, x, stride, sums, blocks, weights, ring, totals)
        elif rows > 1:
            matrix_tile(4, 1, 1, codes, scales, x, stride, sums, blocks, weights, ring, totals)
        else:
            matrix_tile(1, 1, 1, codes, scales, x, stride, sums, blocks, weights, ring, totals)
    elif rows == 16:
        matrix_tile(16, 0, 0, codes, scales, x, stride, sums, blocks, weights, ring, totals)
    elif rows > 8:
        matrix_tile(16, 1, 0, codes, scales, x, stride, sums, blocks, weights, ring, totals)
    elif rows > 4:
        matrix_tile(8, 1, 0, codes, scales, x, stride, sums, blocks, weights, ring, totals)
    elif rows > 1:
        matrix_tile(4, 1, 0, codes, scales, x, stride, sums, blocks, weights, ring, totals)
    else:
        matrix_tile(1, 1, 0, codes, scales, x, stride, sums, blocks, weights, ring, totals)


@functools.cache
def compile_matrices(bits: int) -> int:
    """The address of the kernel for weights of `bits`; `BlockProduct` calls it."""

    def kernel(arguments):  # pragma: no cover
        num_rows, num_groups, blocks = arguments[NUM_ROWS], arguments[NUM_GROUPS], arguments[NUM_BLOCKS]
        # Tiles that cross cache lines load at half the speed.
        address = arguments[SCRATCH] + take_ticket(arguments, THREAD) * arguments[SCRATCH_STRIDE] + LINE - 1
        address -= address % LINE
        ring, weights = bytes_at(address), bytes_at(address + RING * TILE_BYTES)
        sums_at = address + (RING + _UNPACKED) * TILE_BYTES
        totals_at = sums_at + -(-num_rows // TILE_ROWS) * TILE_ROWS * blocks * 4
        totals = elements(totals_at, BITS_FLOAT32)
        segment = -(-blocks // -(-blocks // _UNPACKED))
        stride = blocks * (BLOCK * 2)
        configure_tiles(arguments[TILES])
        load_tile(ONES, arguments[TILES] + LINE, _PAIR)
        for row in range(0, num_rows, TILE_ROWS):
            x, sums = bytes_at(arguments[X] + row * stride), elements(sums_at + row * blocks * 4, BITS_FLOAT32)
            if num_rows - row < TILE_ROWS:
                block_sums(1, x, stride, blocks, sums)
            else:
                block_sums(0, x, stride, blocks, sums)
        item = take_ticket(arguments, TICKET)
        while item * GROUPS < num_groups:
            for i in range(num_rows * GROUPS * LANES):
                store(totals, i, np.float32(0))
            for group in range(GROUPS):
                for first in range(0, blocks, segment):
                    block = (item * GROUPS + group) * blocks + first
                    codes = codes_at(arguments[CODES] + block * (BLOCK * LANES * bits // 8), bits)
                    scales = bytes_at(arguments[SCALES] + block * (LANES * 4))
                    for row in range(0, num_rows, TILE_ROWS):
                        x = bytes_at(arguments[X] + row * stride + first * (BLOCK * 2))
                        sums = elements(sums_at + (row * blocks + first * TILE_ROWS) * 4, BITS_FLOAT32)
                        found = elements(totals_at + (row * GROUPS + group) * (LANES * 4), BITS_FLOAT32)
                        _chunk(
                            *(min(TILE_ROWS, num_rows - row), row == 0, codes, scales, x, stride, sums),
                            *(min(segment, blocks - first), weights, ring, found),
                        )
            write_outputs(arguments, totals, num_rows, GROUPS, 0, item * GROUPS)
            item = take_ticket(arguments, TICKET)
        release_tiles()

    return compile_kernel(kernel)
