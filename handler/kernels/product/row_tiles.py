"""A tile for each number of rows from 1 to 8, in LLVM instructions; a kernel knows the number only when it runs."""

from __future__ import annotations

from llvmlite import ir

from handler.kernels.primitives import called
from handler.kernels.product.product_outputs import GROUPS
from handler.kernels.vectors import FLOATS, LANES, index, splat

# Rows multiplied by a group of 16 outputs together.
MOST_ROWS = 8
# Room for the products of a tile, float32 numbers.
PRODUCTS = MOST_ROWS * GROUPS * LANES
_LONG = ir.IntType(64)


def _groups_of(num_rows: int) -> int:
    """Groups of a tile: fewer rows take more, so that as many sums are independent."""
    return 1 if num_rows > 4 else 2 if num_rows > 2 else GROUPS


@called
def tiles_of(num_rows):  # pragma: no cover
    """Tiles of so many rows by `GROUPS` groups."""
    rest = num_rows % MOST_ROWS
    return num_rows // MOST_ROWS * GROUPS + (0 if rest == 0 else 1 if rest <= 2 else 2 if rest <= 4 else GROUPS)


def write_tile(builder, rows, factor, out, emit):
    """Write the tile of `rows` rows, times `factor`, to `out`, row by row; returns its number of groups.

    `emit(rows, groups)` emits the tile of so many, and returns its vectors of 16 float32 products, by row and group.
    """
    done, cases = builder.append_basic_block("tiled"), range(1, MOST_ROWS + 1)
    blocks = {number: builder.append_basic_block(f"tile_{number}") for number in cases}
    switch = builder.switch(rows, blocks[1])
    ends = []
    for number, block in blocks.items():
        if number > 1:
            switch.add_case(index(number), block)
        builder.position_at_end(block)
        groups = _groups_of(number)
        vectors, factors = emit(number, groups), splat(builder, factor, FLOATS)
        for i, vector in enumerate(vectors):
            place = builder.bitcast(builder.gep(out, [index(i * LANES)]), FLOATS.as_pointer())
            builder.store(builder.fmul(vector, factors), place, align=4)
        ends.append((index(groups), builder.block))
        builder.branch(done)
    builder.position_at_end(done)
    found = builder.phi(_LONG)
    for groups, block in ends:
        found.add_incoming(groups, block)
    return found
