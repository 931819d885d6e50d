"""Products with bfloat16 weights by the processor's matrix unit, for any number of rows in one order of sums."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from handler.native.compiler import compile_kernel
from handler.native.dense_tile import DENSE_ROWS, HALVES, PAIR, dense_tile
from handler.native.memory import BITS_FLOAT32, elements, take_ticket
from handler.native.product_outputs import (
    CODES,
    GROUPS,
    NUM_BLOCKS,
    NUM_GROUPS,
    X,
    write_outputs,
)
from handler.native.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE, THREAD, TICKET, TILES
from handler.native.tiles import LINE, TILE_BYTES, TILE_ROWS, configure_tiles, release_tiles, tile_shapes
from handler.native.vectors import LANES


def dense_scratch(_num_rows: int, _blocks: int) -> int:
    """Numbers of scratch that a thread needs: products of 32 rows."""
    return DENSE_ROWS * GROUPS * LANES


def dense_shapes(num_rows: int) -> int:
    """The address of the tiles' shapes for 32 rows, and behind it for the rows that are left."""
    return _shapes((num_rows - 1) % DENSE_ROWS + 1).data_ptr()


@functools.cache
def _shapes(rest: int) -> Tensor:
    first, second = HALVES
    rows = dict.fromkeys(first, min(rest, TILE_ROWS)) | dict.fromkeys(second, max(rest - TILE_ROWS, 1))
    return torch.cat((tile_shapes({}, {}), tile_shapes(rows, {})))


@functools.cache
def compile_dense() -> int:
    """The address of the kernel; `DenseProduct` calls it."""

    def kernel(arguments):  # pragma: no cover
        num_rows, num_groups, blocks = arguments[NUM_ROWS], arguments[NUM_GROUPS], arguments[NUM_BLOCKS]
        found_at = arguments[SCRATCH] + take_ticket(arguments, THREAD) * arguments[SCRATCH_STRIDE]
        found, stride = elements(found_at, BITS_FLOAT32), blocks * LINE
        item = take_ticket(arguments, TICKET)
        while item * GROUPS < num_groups:
            for row in range(0, num_rows, DENSE_ROWS):
                rows, x = min(DENSE_ROWS, num_rows - row), arguments[X] + row * stride
                configure_tiles(arguments[TILES] + (LINE if num_rows - row <= DENSE_ROWS else 0))
                for group in range(0, GROUPS, PAIR):
                    weights = arguments[CODES] + (item * GROUPS + group) * blocks * TILE_BYTES
                    if rows > TILE_ROWS:
                        dense_tile(2, x, stride, weights, blocks, found_at + group * LANES * 4)
                    else:
                        dense_tile(1, x, stride, weights, blocks, found_at + group * LANES * 4)
                write_outputs(arguments, found, rows, GROUPS, row, item * GROUPS)
            item = take_ticket(arguments, TICKET)
        release_tiles()

    return compile_kernel(kernel)
