"""Products with weights of 4 to 8 bits and activations rounded to int8, 8 rows at a time."""

from __future__ import annotations

import functools

from handler.kernels.compiler import compile_kernel
from handler.kernels.low_rank.added import add_terms, low_rank_terms
from handler.kernels.primitives import (
    BITS_FLOAT32,
    bytes_at,
    elements,
    float_argument,
    share_of,
    shifted,
    thread_number,
)
from handler.kernels.product.block_form import BLOCK, BlockForm
from handler.kernels.product.product_outputs import (
    CODES,
    FACTOR,
    GROUPS,
    NUM_BLOCKS,
    NUM_GROUPS,
    SCALES,
    SHRUNK,
    X,
    write_outputs,
)
from handler.kernels.product.rounded.rows import QUADS, round_row
from handler.kernels.product.rounded.tile import rounded_tile
from handler.kernels.product.row_tiles import MOST_ROWS, PRODUCTS
from handler.kernels.team import NUM_ROWS, SCRATCH, SCRATCH_STRIDE
from handler.kernels.vectors import LANES


@functools.cache
def compile_rounded(form: int) -> int:
    """The address of the kernel for weights of `form`, a `BlockForm.number` without a table."""
    of_form = BlockForm.of_number(form)
    parts, span = of_form.parts, of_form.span
    code_bytes, scale_bytes = 4 * LANES * of_form.words, 2 * LANES * of_form.numbers

    def kernel(arguments):  # pragma: no cover
        num_rows, num_groups = arguments[NUM_ROWS], arguments[NUM_GROUPS]
        blocks = arguments[NUM_BLOCKS]
        spans = blocks // span
        factor = float_argument(arguments, FACTOR)
        address = arguments[SCRATCH] + thread_number(arguments) * arguments[SCRATCH_STRIDE]
        found, terms = elements(address, BITS_FLOAT32), address + PRODUCTS * 4
        quads_at = terms + PRODUCTS * 4
        steps_at = quads_at + num_rows * blocks * QUADS * 4
        sums_at = steps_at + num_rows * spans * 4
        for row in range(num_rows):
            first = row // MOST_ROWS * MOST_ROWS
            rows = min(MOST_ROWS, num_rows - first)
            quads = shifted(bytes_at(quads_at + first * blocks * QUADS * 4), row - first)
            steps = shifted(elements(steps_at + first * spans * 4, BITS_FLOAT32), row - first)
            sums = shifted(elements(sums_at + first * spans * parts * 4, BITS_FLOAT32), row - first)
            round_row(form, arguments[X] + row * blocks * BLOCK * 2, spans, quads, steps, sums, rows)
        first, end = share_of(arguments, num_groups // GROUPS)
        for item in range(first, end):
            row = 0
            while row < num_rows:
                rows = min(MOST_ROWS, num_rows - row)
                quads = bytes_at(quads_at + row * blocks * QUADS * 4)
                steps = elements(steps_at + row * spans * 4, BITS_FLOAT32)
                sums = elements(sums_at + row * spans * parts * 4, BITS_FLOAT32)
                given = (quads, steps, sums)
                group = item * GROUPS
                last = group + GROUPS
                if arguments[SHRUNK] != 0:
                    low_rank_terms(arguments, terms, rows, row, group)
                while group < last:
                    codes = bytes_at(arguments[CODES] + group * blocks * code_bytes)
                    scales = bytes_at(arguments[SCALES] + group * spans * scale_bytes)
                    groups = rounded_tile(rows, form, codes, scales, given, blocks, factor, found)
                    if arguments[SHRUNK] != 0:
                        add_terms(terms, address, rows, groups, group - item * GROUPS)
                    write_outputs(arguments, found, rows, groups, row, group)
                    group += groups
                row += rows

    return compile_kernel(kernel)
