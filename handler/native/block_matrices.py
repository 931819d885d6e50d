"""Products with weights of 4 and 8 bits by the processor's matrix unit: 16 rows at a time from decoded tiles."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from handler.native.block_outputs import (
    BIAS,
    CODES,
    GROUPS,
    NUM_BLOCKS,
    NUM_GROUPS,
    OPERATION,
    OTHER,
    OUT,
    SCALES,
    X,
    write_outputs,
)
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
from handler.native.memory import BITS_BFLOAT16, BITS_FLOAT32, bytes_at, called, elements, store, take_ticket
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
# Blocks whose weights are unpacked for all rows before the next ones: they stay in the first cache.
_SEGMENT = 20


def matrices_scratch(num_rows: int, blocks: int) -> int:
    """Numbers of scratch that a thread needs: weights, products, and the sums of the rows' blocks."""
    rows = -(-num_rows // TILE_ROWS) * TILE_ROWS
    return LINE // 4 + (RING + _SEGMENT) * TILE_BYTES // 4 + rows * (blocks + GROUPS * LANES)


def matrices_shapes(num_rows: int) -> int:
    """The address of the tiles' shapes for `num_rows` rows, some of which are left by tiles of 16, and of 32 ones."""
    return _shapes(num_rows % TILE_ROWS or TILE_ROWS).data_ptr()


@functools.cache
def _shapes(rest: int) -> Tensor:
    shapes = tile_shapes(dict.fromkeys(TILES_OF_THE_REST, rest), dict.fromkeys(NARROW_TILES, _PAIR))
    return torch.cat((shapes, torch.ones(BLOCK, dtype=torch.bfloat16).view(torch.uint8)))


@called
def _segment(codes, scales, x, stride, num_rows, sums, sums_stride, blocks, weights, ring, totals):  # pragma: no cover
    """Add the products of some blocks of one group for all rows to `totals`; the first rows unpack the weights."""
    for row in range(0, num_rows, TILE_ROWS):
        rows, chunk = min(TILE_ROWS, num_rows - row), row // TILE_ROWS
        given, at = bytes_at(x + row * stride), elements(totals + row * (GROUPS * LANES * 4), BITS_FLOAT32)
        totals_of = elements(sums + chunk * sums_stride, BITS_FLOAT32)
        if row == 0:
            if rows == 16:
                matrix_tile(16, 0, 1, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
            elif rows > 8:
                matrix_tile(16, 1, 1, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
            elif rows > 4:
                matrix_tile(8, 1, 1, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
            elif rows > 1:
                matrix_tile(4, 1, 1, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
            else:
                matrix_tile(1, 1, 1, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
        elif rows == 16:
            matrix_tile(16, 0, 0, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
        elif rows > 8:
            matrix_tile(16, 1, 0, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
        elif rows > 4:
            matrix_tile(8, 1, 0, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
        elif rows > 1:
            matrix_tile(4, 1, 0, codes, scales, given, stride, totals_of, blocks, weights, ring, at)
        else:
            matrix_tile(1, 1, 0, codes, scales, given, stride, totals_of, blocks, weights, ring, at)


@functools.cache
def compile_matrices(bits: int) -> int:
    """The address of the kernel for weights of `bits`; `BlockProduct` calls it."""

    def kernel(arguments):  # pragma: no cover
        num_rows, num_groups, blocks = arguments[NUM_ROWS], arguments[NUM_GROUPS], arguments[NUM_BLOCKS]
        out = elements(arguments[OUT], BITS_BFLOAT16)
        bias, other = elements(arguments[BIAS], BITS_BFLOAT16), elements(arguments[OTHER], BITS_BFLOAT16)
        has_bias, operation, width = arguments[BIAS] != 0, arguments[OPERATION], num_groups * LANES
        # Tiles that cross cache lines load at half the speed.
        address = arguments[SCRATCH] + take_ticket(arguments, THREAD) * arguments[SCRATCH_STRIDE] + LINE - 1
        address -= address % LINE
        ring, weights = bytes_at(address), bytes_at(address + RING * TILE_BYTES)
        sums_at = address + (RING + _SEGMENT) * TILE_BYTES
        totals_at = sums_at + -(-num_rows // TILE_ROWS) * TILE_ROWS * blocks * 4
        totals = elements(totals_at, BITS_FLOAT32)
        segment = -(-blocks // -(-blocks // _SEGMENT))
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
            for group in range(item * GROUPS, item * GROUPS + GROUPS):
                for first in range(0, blocks, segment):
                    block = group * blocks + first
                    codes = codes_at(arguments[CODES] + block * (BLOCK * LANES * bits // 8), bits)
                    scales = bytes_at(arguments[SCALES] + block * (LANES * 4))
                    _segment(
                        codes,
                        scales,
                        arguments[X] + first * (BLOCK * 2),
                        stride,
                        num_rows,
                        sums_at + first * (TILE_ROWS * 4),
                        blocks * (TILE_ROWS * 4),
                        min(segment, blocks - first),
                        weights,
                        ring,
                        totals_at + (group - item * GROUPS) * (LANES * 4),
                    )
            write_outputs(totals, num_rows, GROUPS, 0, item * GROUPS, width, has_bias, bias, operation, other, out)
            item = take_ticket(arguments, TICKET)
        release_tiles()

    return compile_kernel(kernel)
