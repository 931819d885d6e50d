"""Inner loop of products with weights of 4 to 8 bits: AVX-512's bfloat16 dot products, in LLVM instructions."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.product.block_form import BLOCK, CODES, MINIMUM, BlockForm
from handler.kernels.product.block_weights import BlockWeights
from handler.kernels.product.row_tiles import write_tile
from handler.kernels.vectors import (
    BFLOATS,
    FLOATS,
    HALVES,
    INTS,
    LANES,
    call,
    fetch,
    folded,
    index,
    multiply_add,
    splat,
    vector_at,
)

# Of a line of cache.
LINE_BYTES = 64


class BlockEmitter:
    """Emits one tile: `rows` rows of activations by `groups` groups of 16 outputs, over all blocks."""

    def __init__(self, builder, rows: int, groups: int, form: BlockForm, pointers) -> None:
        self.b = builder
        self.form = form
        self.rows = rows
        self.groups = groups
        codes, self.scales, self.x, self.sums, table, self.blocks, self.ahead = pointers
        self.weights = BlockWeights(builder, form, groups, codes, self.blocks, table)

        self.zeros = [ir.Constant(FLOATS, [0.0] * LANES)] * (rows * groups)
        # Scales of a group, and the blocks, or spans of blocks, in which they are read.
        spans = self.blocks if form.span == 1 else builder.udiv(self.blocks, index(form.span))
        self.spans, self.num_scales = spans, builder.mul(spans, index(form.parts))

    def tile(self):
        """The totals, vectors of 16 outputs by row and group."""
        step = self.add_block if self.form.span == 1 else self.add_span
        return folded(self.b, self.spans, self.zeros, step)

    def add_block(self, block, totals):
        """The totals, by row and group, plus one block's products."""
        b = self.b
        self._fetch_ahead(block)
        pairs = enumerate(self.weights.pairs(block))
        for part in range(self.form.parts):
            number = b.add(b.mul(block, index(self.form.parts)), index(part))
            found = self.products(block, pairs, self._by_row(self.zeros))
            totals = self.scaled(number, found, totals)
        return totals

    def add_span(self, span, totals):
        """The same with the products of the blocks that share a scale."""
        b, first = self.b, self.b.mul(span, index(self.form.span))

        def add(i, sums):
            block = b.add(first, i)
            self._fetch_ahead(block)
            found = self.products(block, enumerate(self.weights.pairs(block)), self._by_row(sums))
            return [vector for row in found for vector in row]

        found = folded(b, index(self.form.span), self.zeros, add)
        return self.scaled(span, self._by_row(found), totals)

    def _fetch_ahead(self, block) -> None:
        """Prefetch the block's lines of other memory into the second cache: the first is for the tile."""
        b, (address, lines) = self.b, self.ahead
        first = b.add(address, b.mul(b.mul(block, lines), index(LINE_BYTES)))
        with cgutils.for_range(b, lines, intp=lines.type) as loop:
            place = b.add(first, b.mul(loop.index, index(LINE_BYTES)))
            fetch(b, b.inttoptr(place, ir.IntType(8).as_pointer()), level=2)

    def scaled(self, number, found, totals):
        """The totals plus `found`, products by row and group that share scale `number`."""
        b, following = self.b, []
        offsets = self.offsets(number)
        for r in range(self.rows):
            place = b.add(b.mul(number, index(self.rows)), index(r))
            for g, (scale, offset) in enumerate(offsets):
                new = totals[r * self.groups + g]
                if offset is not None:
                    total_of = splat(b, b.load(b.gep(self.sums, [place])), FLOATS)
                    new = multiply_add(b, total_of, offset, new)
                following.append(multiply_add(b, found[r][g], scale, new))
        return following

    def _by_row(self, vectors):
        return [list(vectors[r * self.groups : (r + 1) * self.groups]) for r in range(self.rows)]

    def offsets(self, number):
        """For each group, of scale `number`: the scale, and what the sum of activations is multiplied by, or None."""
        b, form, out = self.b, self.form, []
        each = LANES * (form.numbers // form.parts)
        for g in range(self.groups):
            start = b.mul(b.add(b.mul(index(g), self.num_scales), number), index(each))
            scale = b.fpext(vector_at(b, self.scales, start, HALVES), FLOATS)
            # What the products have instead of a code.
            added = 128 if form.values == CODES and form.bits < 8 else 0
            if form.zero == MINIMUM:
                offset = b.fpext(vector_at(b, self.scales, b.add(start, index(LANES)), HALVES), FLOATS)
                if added:
                    offset = multiply_add(b, scale, ir.Constant(FLOATS, [-float(added)] * LANES), offset)
            elif added + form.zero:
                offset = b.fmul(scale, ir.Constant(FLOATS, [-float(added + form.zero)] * LANES))
            else:
                offset = None
            out.append((scale, offset))
        return out

    def products(self, block, pairs, sums):
        """`sums` plus weight * x over a block or its next `inputs`, `[rows][groups]`; `pairs` gives the weights."""
        b = self.b
        for _ in range(min(self.form.inputs, BLOCK) // 2):
            pair, weights = next(pairs)
            for r in range(self.rows):
                offset = b.add(b.mul(block, index(BLOCK // 2 * self.rows)), index(pair * self.rows + r))
                given = b.bitcast(splat(b, b.load(b.gep(self.x, [offset]), align=4), INTS), BFLOATS)
                for g, weight in enumerate(weights):
                    sums[r][g] = call(b, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [sums[r][g], weight, given])
        return sums


@intrinsic(prefer_literal=True)
def block_tile(
    _context, rows, form, codes, scales, x, sums, table, blocks, factor, out, ahead, lines
):  # pragma: no cover
    """Write `rows` rows, at most 8, of some groups of 16 float32 products, times `factor`, to `out`, row by row.

    Returns the number of groups, 1 to 4. `form`, a `BlockForm.number`, is literal. `codes`, `scales` and `table` as
    from `block_layout`, from a group on. `x` pairs of bfloat16 `[blocks, 16, rows]` and `sums` float32
    `[scales, rows]`, the sum over the inputs of each scale: rows are innermost, so that one register addresses all
    rows. For each block, `lines` cache lines are prefetched, from the address `ahead` on.
    """
    of_form = BlockForm.of_number(form.literal_value)

    def generate(_context, builder, _signature, arguments):
        rows, _, codes, scales, x, sums, table, blocks, factor, out, *ahead = arguments
        pointers = (codes, builder.bitcast(scales, ir.HalfType().as_pointer()), x, sums, table, blocks, ahead)

        def emit(num_rows, num_groups):
            return BlockEmitter(builder, num_rows, num_groups, of_form, pointers).tile()

        return write_tile(builder, rows, factor, out, emit)

    kinds = (types.int64, form, codes, scales, x, sums, table, blocks, factor, out, types.int64, types.int64)
    return types.int64(*kinds), generate
