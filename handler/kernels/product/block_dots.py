"""Products with weights of 4 to 8 bits by AVX-512's bfloat16 dot products, 8 rows at a time."""

from __future__ import annotations

import functools

from handler.kernels.compiler import compile_kernel
from handler.kernels.low_rank.added import add_terms, low_rank_terms
from handler.kernels.low_rank.ahead import AHEAD_SCRATCH, NOW, next_ahead, start_ahead
from handler.kernels.primitives import (
    BITS_FLOAT32,
    bytes_at,
    called,
    elements,
    float_argument,
    integers,
    share_of,
    shifted,
    thread_number,
)
from handler.kernels.product.block_form import BLOCK, BlockForm
from handler.kernels.product.block_sums import sum_eight, sum_row
from handler.kernels.product.block_tile import block_tile
from handler.kernels.product.interleaved_rows import interleave_eight
from handler.kernels.product.product_outputs import (
    CODES,
    FACTOR,
    GROUPS,
    NUM_BLOCKS,
    NUM_GROUPS,
    SCALES,
    SHRUNK,
    TABLE,
    X,
    write_outputs,
)
from handler.kernels.product.row_tiles import MOST_ROWS, PRODUCTS, tiles_of
from handler.kernels.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE
from handler.kernels.vectors import LANES


def dots_scratch(num_rows: int, blocks: int) -> int:
    """Float32 elements of scratch that a thread needs, for blocks with one scale. Rounded activations need less."""
    return 2 * PRODUCTS + AHEAD_SCRATCH + num_rows * blocks * (1 + BLOCK // 2)


def dots_scratch_of_two(num_rows: int, blocks: int) -> int:
    """The same for blocks with two scales."""
    return 2 * PRODUCTS + AHEAD_SCRATCH + num_rows * blocks * (2 + BLOCK // 2)


@called
def _interleave(x, num_rows, blocks, pairs):  # pragma: no cover
    """Write rows in the layout of `block_tile`, 8 at a time, then the rest; `x` `[num_rows, blocks * 32]`."""
    width = blocks * (BLOCK // 2)
    for first in range(0, num_rows, MOST_ROWS):
        rows = min(MOST_ROWS, num_rows - first)
        if rows == MOST_ROWS:
            interleave_eight(bytes_at(x + first * width * 4), width, width, shifted(pairs, first * width))
        else:
            for r in range(rows):
                source = bytes_at(x + (first + r) * width * 4)
                for i in range(width):
                    pairs[first * width + i * rows + r] = source[i]


@functools.cache
def compile_dots(form: int) -> int:
    """The address of the kernel for weights of `form`, a `BlockForm.number`; `BlockProduct` calls it."""
    of_form = BlockForm.of_number(form)
    inputs, parts, span = of_form.inputs, of_form.parts, of_form.span
    code_bytes, scale_bytes = 4 * LANES * of_form.words, 2 * LANES * of_form.numbers

    def kernel(arguments):  # pragma: no cover
        num_rows, num_groups = arguments[NUM_ROWS], arguments[NUM_GROUPS]
        blocks = arguments[NUM_BLOCKS]
        factor = float_argument(arguments, FACTOR)
        address = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE]
        found, terms = elements(address, BITS_FLOAT32), address + PRODUCTS * 4
        ahead_at = terms + PRODUCTS * 4
        ahead, sums_at = integers(ahead_at), ahead_at + AHEAD_SCRATCH * 4
        pairs_at = sums_at + num_rows * blocks * parts * 4
        _interleave(arguments[X], num_rows, blocks, bytes_at(pairs_at))
        spans = blocks // span
        for row in range(0, num_rows, MOST_ROWS):
            sums = elements(sums_at + row * spans * parts * 4, BITS_FLOAT32)
            if num_rows - row >= MOST_ROWS:
                sum_eight(inputs, bytes_at(pairs_at + row * blocks * (BLOCK // 2) * 4), spans, sums)
            else:
                for r in range(num_rows - row):
                    source = bytes_at(arguments[X] + (row + r) * blocks * BLOCK * 2)
                    sum_row(inputs, source, spans, shifted(sums, r), num_rows - row)
        table = bytes_at(arguments[TABLE])
        first, end = share_of(arguments, num_groups // GROUPS)
        start_ahead(arguments, ahead, (end - first) * tiles_of(num_rows) * blocks)
        for item in range(first, end):
            row = 0
            while row < num_rows:
                rows = min(MOST_ROWS, num_rows - row)
                x = bytes_at(pairs_at + row * blocks * (BLOCK // 2) * 4)
                sums = elements(sums_at + row * spans * parts * 4, BITS_FLOAT32)
                group = item * GROUPS
                last = group + GROUPS
                if arguments[SHRUNK] != 0:
                    low_rank_terms(arguments, terms, rows, row, group)
                while group < last:
                    codes = bytes_at(arguments[CODES] + group * blocks * code_bytes)
                    scales = bytes_at(arguments[SCALES] + group * spans * scale_bytes)
                    lines = next_ahead(arguments, ahead, blocks)
                    groups = block_tile(
                        rows, form, codes, scales, x, sums, table, blocks, factor, found, ahead[NOW], lines
                    )
                    if arguments[SHRUNK] != 0:
                        add_terms(terms, address, rows, groups, group - item * GROUPS)
                    write_outputs(arguments, found, rows, groups, row, group)
                    group += groups
                row += rows

    return compile_kernel(kernel)
