"""Adds to the float32 products of a kernel what the adapter of each row adds."""

from __future__ import annotations

from handler.kernels.low_rank.rows import ENTRY
from handler.kernels.low_rank.tile import MOST_ROWS, SIDE, add_nothing, add_vectors, expand_tile
from handler.kernels.primitives import BITS_BFLOAT16, called, integers
from handler.kernels.product.product_outputs import ENDS, NUM_SECTIONS, SHRUNK, SHRUNK_WIDTH, SLOTS, UPS
from handler.kernels.vectors import LANES

# Outputs that B has side by side, and bytes of their weights for one input: bfloat16, as activations are.
WIDE = SIDE * LANES
_WIDE_BYTES = WIDE * BITS_BFLOAT16 // 8
# Groups of 16 outputs that the matrix unit's kernel finishes together.
_PAIR = 2


@called
def run_of(slots, row, end):  # pragma: no cover
    """How many rows from `row` on, at most 4 and before `end`, have the same slot."""
    count = 1
    while count < MOST_ROWS and row + count < end and slots[row + count] == slots[row]:
        count += 1
    return count


@called
def _section_of(ends, output):  # pragma: no cover
    section = 0
    while ends[section] <= output:
        section += 1
    return section


@called
def low_rank_terms(arguments, terms, num_rows, row, group):  # pragma: no cover
    """Write what adapters add to 64 outputs from `group` on of `num_rows` rows from `row` on, float32 `[num_rows, 64]`.

    `arguments` are a product kernel's: `SHRUNK` float32 `[rows, SHRUNK_WIDTH]`, `SLOTS` int64 `[rows]`, `UPS` int64
    `[slots, NUM_SECTIONS, 3]`, `ENDS` int64 `[NUM_SECTIONS]`, in outputs, are addresses.
    """
    width, num_sections = arguments[SHRUNK_WIDTH], arguments[NUM_SECTIONS]
    slots, ups, ends = integers(arguments[SLOTS]), integers(arguments[UPS]), integers(arguments[ENDS])
    section = _section_of(ends, group * LANES)
    wide = (group * LANES - (ends[section - 1] if section > 0 else 0)) // WIDE
    r = 0
    while r < num_rows:
        entry = (slots[row + r] * num_sections + section) * ENTRY
        if entry < 0 or ups[entry] == 0:
            add_nothing(terms + r * WIDE * 4)
            r += 1
            continue
        rows, count = run_of(slots, row + r, row + num_rows), ups[entry + 1]
        x = arguments[SHRUNK] + ((row + r) * width + ups[entry + 2]) * 4
        weights = ups[entry] + wide * count * _WIDE_BYTES
        expand_tile(rows, BITS_BFLOAT16, SIDE, 0, x, width, weights, count, terms + r * WIDE * 4, WIDE)
        r += rows


@called
def add_terms(terms, found, num_rows, num_groups, group):  # pragma: no cover
    """Add `terms` float32 `[num_rows, 64]`, from its vector `group` on, to `found` `[num_rows, num_groups * 16]`."""
    for r in range(num_rows):
        add_vectors(terms + (r * SIDE + group) * LANES * 4, found + r * num_groups * LANES * 4, num_groups)


@called
def add_pair(arguments, found, num_rows, row, group):  # pragma: no cover
    """Add to `found`, the address of float32 `[num_rows, 32]`, what adapters add from `row` and `group` on."""
    width, num_sections = arguments[SHRUNK_WIDTH], arguments[NUM_SECTIONS]
    slots, ups, ends = integers(arguments[SLOTS]), integers(arguments[UPS]), integers(arguments[ENDS])
    section = _section_of(ends, group * LANES)
    output = group * LANES - (ends[section - 1] if section > 0 else 0)
    r = 0
    while r < num_rows:
        entry = (slots[row + r] * num_sections + section) * ENTRY
        if entry < 0 or ups[entry] == 0:
            r += 1
            continue
        rows, count = run_of(slots, row + r, row + num_rows), ups[entry + 1]
        x = arguments[SHRUNK] + ((row + r) * width + ups[entry + 2]) * 4
        weights = ups[entry] + output // WIDE * count * _WIDE_BYTES + output % WIDE * BITS_BFLOAT16 // 8
        out = found + r * _PAIR * LANES * 4
        expand_tile(rows, BITS_BFLOAT16, _PAIR, 1, x, width, weights, count, out, _PAIR * LANES)
        r += rows
