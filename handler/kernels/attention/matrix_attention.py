"""The kernel of `row_attention` on the matrix unit (AMX): its columns are heads that share keys and rows of a prompt.

A column's result does not depend on other columns, so a row has the same bits alone and in a prompt. Keys are read in
blocks of 32, counted from the sequence's first token; weights are rounded to bfloat16, as torch rounds them.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from handler.kernels.attention.attention_rows import (
    CACHED_KEYS,
    CACHED_VALUES,
    COSINES,
    FLAT_INDEX,
    HEADS,
    HEADS_STRIDE,
    MANY_ROWS,
    OUT,
    POSITIONS,
    SCALE,
    SINES,
    WINDOW,
    embed,
    rows_together,
    store_rows,
)
from handler.kernels.attention.matrix_attention_tile import (
    DIMS_TOGETHER,
    KEYS_TOGETHER,
    score_columns,
    sum_values,
    weigh_columns,
    write_column,
)
from handler.kernels.compiler import compile_kernel, multiplies_matrices
from handler.kernels.primitives import (
    BITS_BFLOAT16,
    BITS_FLOAT32,
    bytes_at,
    called,
    elements,
    float_argument,
    integers,
    store,
    take_ticket,
    thread_number,
)
from handler.kernels.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE, TICKET, TILES
from handler.kernels.tiles import LINE, TILE_BYTES, TILE_ROWS, configure_tiles, release_tiles, tile_shapes

_COLUMNS = 16
_HEAD_DIMS = (32, 64, 128)


def attends_by_matrices(group: int, head_dim: int, dtype: torch.dtype) -> bool:
    """True if this machine has the kernel for the shape."""
    return dtype is torch.bfloat16 and head_dim in _HEAD_DIMS and group <= _COLUMNS and multiplies_matrices()


def attention_scratch(head_dim: int, max_len: int) -> int:
    """Float32 elements of scratch that a thread needs."""
    return (_scratch_offsets(head_dim)[-1] + (max_len + KEYS_TOGETHER) * LINE + LINE) // 4


def attention_shapes(_num_rows: int) -> int:
    """The address of the tile shapes."""
    return _shapes().data_ptr()


@functools.cache
def _shapes() -> torch.Tensor:
    return tile_shapes({}, {})


def _scratch_offsets(head_dim: int) -> tuple[int, int, int, int, int, int]:
    """Byte offsets in a thread's scratch: queries, one query, limits and shares, room, sums, scores."""
    tiles = min(DIMS_TOGETHER, head_dim) // TILE_ROWS
    one = head_dim // KEYS_TOGETHER * TILE_BYTES
    limits = one + head_dim * 2
    room = limits + 3 * LINE
    sums = room + (1 + tiles) * TILE_BYTES
    return 0, one, limits, room, sums, sums + tiles * TILE_BYTES


@called
def _place_columns(arguments, row, rows, h, group, head_dim, start, query_at, queries, limits):  # pragma: no cover
    """Write the rows' embedded queries as columns, and the range of keys that each sees."""
    heads = elements(arguments[HEADS], BITS_BFLOAT16)
    cosines, sines = elements(arguments[COSINES], BITS_BFLOAT16), elements(arguments[SINES], BITS_BFLOAT16)
    positions, window = integers(arguments[POSITIONS]), arguments[WINDOW]
    query, pairs = elements(query_at, BITS_BFLOAT16), bytes_at(query_at)
    for column in range(rows * group, _COLUMNS):
        # Unused columns see one key.
        limits[column], limits[_COLUMNS + column] = np.int32(0), np.int32(1)
    for column in range(rows * group):
        r, g = column // group, column % group
        at = (row + r) * arguments[HEADS_STRIDE] + (h * group + g) * head_dim
        embed(heads, at, cosines, sines, (row + r) * head_dim, query, 0, np.float32(1), head_dim // 2)
        for pair in range(head_dim // 2):
            queries[pair * _COLUMNS + column] = pairs[pair]
        end = positions[row + r] + 1
        limits[column] = np.int32((max(0, end - window) if window > 0 else 0) - start)
        limits[_COLUMNS + column] = np.int32(end - start)


@functools.cache
def compile_matrix_attention(num_kv_heads: int, group: int, head_dim: int) -> int:
    """The address of the kernel; it takes the arguments of `row_attention`'s."""
    token, dims, most = num_kv_heads * head_dim, min(DIMS_TOGETHER, head_dim), _COLUMNS // group
    _, one_query, limits_place, room_place, sums_place, scores_place = _scratch_offsets(head_dim)

    def kernel(arguments):  # pragma: no cover
        num_rows, window = arguments[NUM_ROWS], arguments[WINDOW]
        flat_index, positions = integers(arguments[FLAT_INDEX]), integers(arguments[POSITIONS])
        out, scale = elements(arguments[OUT], BITS_BFLOAT16), float_argument(arguments, SCALE)
        address = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE] + LINE - 1
        address -= address % LINE
        limits, shares = bytes_at(address + limits_place), elements(address + limits_place + 2 * LINE, BITS_FLOAT32)
        scores = elements(address + scores_place, BITS_FLOAT32)
        store_rows(arguments, num_kv_heads, group, head_dim, BITS_BFLOAT16)

        configure_tiles(arguments[TILES])
        at_once = num_kv_heads if num_rows >= MANY_ROWS else 1
        turns = num_kv_heads // at_once
        turn, block, row = take_ticket(arguments, TICKET), 0, 0
        while row < num_rows:
            rows = rows_together(flat_index, positions, row, num_rows, most)
            first = max(0, positions[row] + 1 - window) if window > 0 else 0
            start = first - first % KEYS_TOGETHER
            seen = positions[row] + rows - start
            num_keys = (seen + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
            while turn // turns == block:
                for h in range(turn % turns * at_once, (turn % turns + 1) * at_once):
                    base = ((flat_index[row] - positions[row] + start) * token + h * head_dim) * 2
                    near = at_once * head_dim * 2 if h % at_once == 0 else 0
                    _place_columns(
                        *(arguments, row, rows, h, group, head_dim, start),
                        *(address + one_query, bytes_at(address), limits),
                    )
                    keys, cached = arguments[CACHED_KEYS] + base, arguments[CACHED_VALUES] + base
                    score_columns(head_dim, keys, cached, token * 2, near, address, num_keys, address + scores_place)
                    weigh_columns(scores, scale, limits, num_keys, shares)
                    for i in range(num_keys * _COLUMNS, (num_keys + num_keys % KEYS_TOGETHER) * _COLUMNS):
                        store(scores, i, np.float32(0))
                    for d in range(0, head_dim, dims):
                        room, sums = address + room_place, address + sums_place
                        sum_values(dims, address + scores_place, cached + d * 2, token * 2, seen, room, sums)
                        for column in range(rows * group):
                            r, g = column // group, column % group
                            at = (((row + r) * num_kv_heads + h) * group + g) * head_dim + d
                            write_column(dims, sums, shares, column, out, at)
                turn = take_ticket(arguments, TICKET)
            block += 1
            row += rows
        release_tiles()

    return compile_kernel(kernel)
