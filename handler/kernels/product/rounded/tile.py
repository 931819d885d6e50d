"""Inner loop of products of codes with activations rounded to int8, by AVX-512's integer dot products (VNNI)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from handler.kernels.product.block_form import MINIMUM, BlockForm
from handler.kernels.product.rounded.rows import QUADS
from handler.kernels.product.row_tiles import write_tile
from handler.kernels.vectors import FLOATS, HALVES, INTS, LANES, call, folded, index, multiply_add, splat, vector_at

_ALL_BYTES = ir.VectorType(ir.IntType(8), 4 * LANES)


class _CodeQuads:
    """Emits the codes of a block as bytes, four inputs in each lane, in the order of `quad_inputs`."""

    def __init__(self, builder, form: BlockForm, groups: int, codes, blocks) -> None:
        """`codes` as from `packed_codes`; `blocks` counts a group's."""
        self.b, self.form, self.groups, self.codes, self.blocks = builder, form, groups, codes, blocks

    def quads(self, block) -> Iterator[list[Any]]:
        """For each of the block's 8 quads of inputs: its codes for each group."""
        b, high = self.b, self.form.bits - 4
        numbers = [b.add(b.mul(index(group), self.blocks), block) for group in range(self.groups)]
        each = [b.mul(number, index(self.form.words * LANES)) for number in numbers]
        if self.form.bits == 8:
            for quad in range(QUADS):
                yield [self._of_pairs(self._vector(start, quad)) for start in each]
            return
        for quarter in range(4):
            words = [self._vector(start, quarter) for start in each]
            above = [self._vector(start, 4 + quarter * high // 4) for start in each] if high else []
            for upper in range(2):
                low = [b.and_(self._shifted(word, 4 * upper), _bytes_of(0x0F)) for word in words]
                for g, word in enumerate(above):
                    low[g] = b.or_(low[g], self._above(word, quarter, upper))
                yield low

    def _vector(self, start, number: int):
        return vector_at(self.b, self.codes, self.b.add(start, index(number * LANES)), INTS, 4)

    def _shifted(self, vector, distance: int):
        """To the right, or to the left if negative."""
        by = ir.Constant(INTS, [abs(distance)] * LANES)
        if not distance:
            return vector
        return self.b.lshr(vector, by) if distance > 0 else self.b.shl(vector, by)

    def _above(self, word, quarter: int, upper: int):
        """The bits above the nibbles, at their place in each byte: pairs `first` and `first + 2` of a half each."""
        b, high = self.b, self.form.bits - 4
        first, mask = 4 * quarter % (LANES // high) + upper, (1 << high) - 1
        lower = b.and_(self._shifted(word, high * first - 4), ir.Constant(INTS, [(mask << 4) * 0x10001] * LANES))
        # The second pair belongs to the byte after.
        later = self._shifted(word, high * (first + 2) - 12)
        return b.or_(lower, b.and_(later, ir.Constant(INTS, [(mask << 12) * 0x10001] * LANES)))

    def _of_pairs(self, vector):
        """Two inputs of 16 outputs, then two more, as four of each."""
        mask = [one + 2 * half * LANES for one in range(0, 2 * LANES, 2) for half in range(2)]
        lanes = [lane + i for lane in mask for i in range(2)]
        as_bytes = self.b.bitcast(vector, _ALL_BYTES)
        order = ir.Constant(ir.VectorType(ir.IntType(32), 4 * LANES), lanes)
        return self.b.bitcast(self.b.shuffle_vector(as_bytes, as_bytes, order), INTS)


def _bytes_of(number: int):
    return ir.Constant(INTS, [number * 0x01010101] * LANES)


class _RoundedEmitter:
    """Emits one tile: `rows` rows of activations by `groups` groups of 16 outputs, over all blocks."""

    def __init__(self, builder, rows: int, groups: int, form: BlockForm, pointers) -> None:
        self.b, self.rows, self.groups, self.form = builder, rows, groups, form
        codes, self.scales, self.quads, self.steps, self.sums, blocks = pointers
        self.codes = _CodeQuads(builder, form, groups, codes, blocks)
        self.spans = blocks if form.span == 1 else builder.udiv(blocks, index(form.span))
        self.num_scales = builder.mul(self.spans, index(form.parts))

    def tile(self):
        """The totals, vectors of 16 outputs by row and group."""
        zeros = [ir.Constant(FLOATS, [0.0] * LANES)] * (self.rows * self.groups)
        return folded(self.b, self.spans, zeros, self._add_span)

    def _add_span(self, span, totals):
        """The totals plus the products of the blocks whose activations share a step."""
        b, form = self.b, self.form
        # Lazily: a block's codes are unpacked right before they are multiplied.
        quads = self._quads(span)
        for part in range(form.parts):
            number = b.add(b.mul(span, index(form.parts)), index(part))
            products = self._start(number)
            for block, quad, weights in islice(quads, form.span * QUADS // form.parts):
                self._multiply(products, block, quad, weights)
            totals = self._scaled(span, number, products, totals)
        return totals

    def _quads(self, span) -> Iterator[tuple[Any, int, list[Any]]]:
        """Block, number and codes of each quad of a span."""
        for i in range(self.form.span):
            block = self.b.add(self.b.mul(span, index(self.form.span)), index(i))
            for number, codes in enumerate(self.codes.quads(block)):
                yield block, number, codes

    def _at(self, pointer, number, row: int):
        """Of a row, the value that `round_row` wrote as `number`."""
        return self.b.load(self.b.gep(pointer, [self.b.add(self.b.mul(number, index(self.rows)), index(row))]), align=4)

    def _start(self, number):
        """Zeros, or minus the weights' zero times the sum of the activations."""
        if self.form.zero in (0, MINIMUM):
            return [ir.Constant(INTS, [0] * LANES)] * (self.rows * self.groups)
        ints = self.b.bitcast(self.sums, ir.IntType(32).as_pointer())
        starts = [splat(self.b, self._at(ints, number, r), INTS) for r in range(self.rows)]
        return [start for start in starts for _ in range(self.groups)]

    def _multiply(self, products, block, quad: int, weights) -> None:
        b = self.b
        number = b.add(b.mul(block, index(QUADS)), index(quad))
        for r in range(self.rows):
            given = b.bitcast(splat(b, self._at(self.quads, number, r), INTS), _ALL_BYTES)
            for g, weight in enumerate(weights):
                place = r * self.groups + g
                arguments = [products[place], b.bitcast(weight, _ALL_BYTES), given]
                products[place] = call(b, "llvm.x86.avx512.vpdpbusd.512", INTS, arguments)

    def _scaled(self, span, number, products, totals):
        b, form, following = self.b, self.form, []
        each = LANES * (form.numbers // form.parts)
        starts = [b.mul(b.add(b.mul(index(g), self.num_scales), number), index(each)) for g in range(self.groups)]
        scales = [b.fpext(vector_at(b, self.scales, start, HALVES), FLOATS) for start in starts]
        for r in range(self.rows):
            step = splat(b, self._at(self.steps, span, r), FLOATS)
            for g, (start, scale) in enumerate(zip(starts, scales, strict=True)):
                place = r * self.groups + g
                new = totals[place]
                if form.zero == MINIMUM:
                    minimum = b.fpext(vector_at(b, self.scales, b.add(start, index(LANES)), HALVES), FLOATS)
                    new = multiply_add(b, splat(b, self._at(self.sums, number, r), FLOATS), minimum, new)
                product = b.sitofp(products[place], FLOATS)
                following.append(multiply_add(b, product, b.fmul(scale, step), new))
        return following


@intrinsic(prefer_literal=True)
def rounded_tile(_context, rows, form, codes, scales, given, blocks, factor, out):  # pragma: no cover
    """As `block_tile`, with rounded activations; `form` has no table.

    `given`: pointers to `quads`, `steps` and `sums` of `round_row`, rows innermost.
    """
    of_form = BlockForm.of_number(form.literal_value)

    def generate(_context, builder, _signature, arguments):
        rows, _, codes, scales, given, blocks, factor, out = arguments
        numbers = (builder.extract_value(given, i) for i in range(3))
        pointers = (codes, builder.bitcast(scales, ir.HalfType().as_pointer()), *numbers, blocks)

        def emit(num_rows, num_groups):
            return _RoundedEmitter(builder, num_rows, num_groups, of_form, pointers).tile()

        return write_tile(builder, rows, factor, out, emit)

    return types.int64(types.int64, form, codes, scales, given, blocks, factor, out), generate
