"""Adds to the float32 products of a kernel what the adapter of each row adds."""

from __future__ import annotations

from handler.kernels.low_rank.rows import ENTRY
from handler.kernels.low_rank.tile import MOST_ROWS, low_rank_tile, tile_kind
from handler.kernels.primitives import BITS_BFLOAT16, BITS_FLOAT32, called, integers
from handler.kernels.product.product_outputs import ENDS, NUM_SECTIONS, SHRUNK, SHRUNK_WIDTH, SLOTS, UPS
from handler.kernels.vectors import LANES

# Shrunk rows are float32, the matrices of kernels with bfloat16 activations bfloat16.
_ADD = tile_kind(BITS_FLOAT32, BITS_BFLOAT16, True)
_BYTES = LANES * BITS_BFLOAT16 // 8


@called
def run_of(slots, row, end):  # pragma: no cover
    """How many rows from `row` on, at most 4 and before `end`, have the same slot."""
    count = 1
    while count < MOST_ROWS and row + count < end and slots[row + count] == slots[row]:
        count += 1
    return count


@called
def section_of(ends, output):  # pragma: no cover
    """The section that output number `output` lies in; `ends` are the sections' ends, ascending."""
    section = 0
    while ends[section] <= output:
        section += 1
    return section


@called
def add_low_rank(arguments, found, num_rows, num_groups, row, group):  # pragma: no cover
    """Add to `found`, the address of float32 `[num_rows, num_groups * 16]`, products from `row` and `group` on.

    `arguments` are a product kernel's: `SHRUNK` float32 `[rows, SHRUNK_WIDTH]`, `SLOTS` int64 `[rows]`, `UPS` int64
    `[slots, NUM_SECTIONS, 3]`, `ENDS` int64 `[NUM_SECTIONS]`, in outputs, are addresses.
    """
    shrunk, width, num_sections = arguments[SHRUNK], arguments[SHRUNK_WIDTH], arguments[NUM_SECTIONS]
    slots, ups, ends = integers(arguments[SLOTS]), integers(arguments[UPS]), integers(arguments[ENDS])
    r = 0
    while r < num_rows:
        slot = slots[row + r]
        if slot < 0:
            r += 1
            continue
        rows = run_of(slots, row + r, row + num_rows)
        for g in range(num_groups):
            output = (group + g) * LANES
            section = section_of(ends, output)
            entry = (slot * num_sections + section) * ENTRY
            if ups[entry] != 0:
                begin = ends[section - 1] if section > 0 else 0
                weights = ups[entry] + (output - begin) // LANES * ups[entry + 1] * _BYTES
                x = shrunk + ((row + r) * width + ups[entry + 2]) * 4
                out = found + (r * num_groups + g) * LANES * 4
                low_rank_tile(rows, _ADD, x, width, weights, ups[entry + 1], out, num_groups * LANES)
        r += rows
