"""Inner loop of products with weights of 4 and 8 bits: AVX-512's bfloat16 dot products, in LLVM instructions.

4-bit codes become bfloat16 without a conversion, two at once: 0x4300 is 128 in bfloat16, and a code fills its last
bits. Dot products therefore use 128 + code; 128 times the sum of the block's activations is subtracted afterwards.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.vectors import (
    BFLOATS,
    BYTES,
    FLOATS,
    HALVES,
    INTS,
    LANES,
    call,
    folded,
    index,
    multiply_add,
    splat,
    vector_at,
)

BLOCK = 32


class BlockEmitter:
    """Emits one tile: `rows` rows of activations by `groups` groups of 16 outputs, over all blocks."""

    def __init__(self, builder, rows: int, groups: int, bits: int, pointers) -> None:
        self.b = builder
        self.bits = bits
        self.rows = rows
        self.groups = groups
        self.codes, self.scales, self.x, self.sums, self.blocks = pointers

    def at(self, *terms: tuple[object, object]):
        """The sum of the terms' products, 64-bit."""
        total = ir.Constant(ir.IntType(64), 0)
        for one, other in terms:
            total = self.b.add(total, self.b.mul(one, other))
        return total

    def tile(self):
        """The totals, `[rows][groups]` vectors of 16 outputs."""
        zeros = [ir.Constant(FLOATS, [0.0] * LANES)] * (self.rows * self.groups)
        totals = folded(self.b, self.blocks, zeros, self.add_block)
        return [totals[r * self.groups : (r + 1) * self.groups] for r in range(self.rows)]

    def add_block(self, block, totals):
        """The totals, by row and group, plus one block's products."""
        b, following = self.b, []
        found, offsets = self.block(block), self.offsets(block)
        for r in range(self.rows):
            place = b.add(b.mul(block, index(self.rows)), index(r))
            total_of = splat(b, b.load(b.gep(self.sums, [place])), FLOATS)
            for g, (scale, offset) in enumerate(offsets):
                new = multiply_add(b, total_of, offset, totals[r * self.groups + g])
                following.append(multiply_add(b, found[r][g], scale, new))
        return following

    def offsets(self, block):
        """For each group the block's scales and minima, the latter less 128 * scale for 4-bit codes."""
        b, out = self.b, []
        for g in range(self.groups):
            start = b.mul(self.at((index(g), self.blocks), (index(1), block)), index(2 * LANES))
            scale = b.fpext(vector_at(b, self.scales, start, HALVES), FLOATS)
            minimum = b.fpext(vector_at(b, self.scales, b.add(start, index(LANES)), HALVES), FLOATS)
            if self.bits == 4:
                minimum = multiply_add(b, scale, ir.Constant(FLOATS, [-128.0] * LANES), minimum)
            out.append((scale, minimum))
        return out

    def block(self, block):
        """One block's sums of code * x, or (128 + code) * x, `[rows][groups]`."""
        b = self.b
        zero = ir.Constant(FLOATS, [0.0] * LANES)
        sums = [[zero] * self.groups for _ in range(self.rows)]
        for pair, weights in enumerate(self.weights(block)):
            for r in range(self.rows):
                offset = b.add(b.mul(block, index(BLOCK // 2 * self.rows)), index(pair * self.rows + r))
                given = b.bitcast(splat(b, b.load(b.gep(self.x, [offset]), align=4), INTS), BFLOATS)
                for g, weight in enumerate(weights):
                    sums[r][g] = call(b, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [sums[r][g], weight, given])
        return sums

    def weights(self, block):
        """For each of the block's 16 pairs of inputs: code or 128 + code of both, in bfloat16, for each group."""
        b = self.b
        if self.bits == 8:
            for pair in range(BLOCK // 2):
                starts = [
                    b.mul(self.at((index(g), self.blocks), (index(1), block)), index(BLOCK * LANES))
                    for g in range(self.groups)
                ]
                yield [self.converted(b.add(start, index(2 * LANES * pair))) for start in starts]
            return
        for quarter in range(4):
            packed = []
            for g in range(self.groups):
                start = b.mul(self.at((index(g), self.blocks), (index(1), block)), index(4 * LANES))
                packed.append(vector_at(b, self.codes, b.add(start, index(quarter * LANES)), INTS, 4))
            for step in range(4):
                yield [self.widened(codes, step) for codes in packed]

    def converted(self, start):
        """32 bytes, the codes of two inputs for each of 16 outputs, as bfloat16; exact up to 256."""
        b = self.b
        codes = b.bitcast(self.codes, ir.IntType(8).as_pointer())
        halves = [
            b.uitofp(b.zext(vector_at(b, codes, b.add(start, index(LANES * part)), BYTES, 1), INTS), FLOATS)
            for part in range(2)
        ]
        return call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, [halves[1], halves[0]])

    def widened(self, codes, step: int):
        """Two weights of each lane, as 128 + code in bfloat16."""
        b = self.b
        shifted = b.lshr(codes, ir.Constant(INTS, [4 * step] * LANES)) if step else codes
        kept = b.and_(shifted, ir.Constant(INTS, [0x000F000F] * LANES))
        return b.bitcast(b.or_(kept, ir.Constant(INTS, [0x43004300] * LANES)), BFLOATS)


@intrinsic(prefer_literal=True)
def block_tile(_context, rows, groups, bits, codes, scales, x, sums, blocks, out):  # pragma: no cover
    """Write `rows` x `groups * 16` float32 products to `out`, row by row. `rows`, `groups` and `bits` are literal.

    `codes` of 4 bits: int32 `[groups, blocks, 4, 16]`, in each number eight weights of one output, weight 2s in bits 4s
    to 4s + 3 and weight 2s + 1 in bits 16 + 4s on; of 8 bits: uint8 `[groups, blocks, 16, 16, 2]`, two inputs for each
    of 16 outputs. `scales` float16 `[groups, blocks, 2, 16]`, scales and minima. `x` pairs of bfloat16
    `[blocks, 16, rows]` and `sums` float32 `[blocks, rows]`, the sum of each block: rows are innermost, so that
    one register addresses all rows.
    """
    num_rows, num_groups, num_bits = rows.literal_value, groups.literal_value, bits.literal_value

    def generate(_context, builder, _signature, arguments):
        codes, scales, x, sums, blocks, out = arguments[3:]
        scales = builder.bitcast(scales, ir.HalfType().as_pointer())
        emitter = BlockEmitter(builder, num_rows, num_groups, num_bits, (codes, scales, x, sums, blocks))
        for r, row in enumerate(emitter.tile()):
            for g, vector in enumerate(row):
                place = builder.gep(out, [index((r * num_groups + g) * LANES)])
                builder.store(vector, builder.bitcast(place, FLOATS.as_pointer()), align=4)
        return

    return types.void(rows, groups, bits, codes, scales, x, sums, blocks, out), generate


@intrinsic
def interleave_eight(_context, source, stride, count, out):  # pragma: no cover
    """Write eight rows interleaved, int32 `[count, 8]`; `source` int32, rows `stride` apart.

    `count` is a multiple of 16.
    """

    def generate(_context, builder, _signature, arguments):
        source, stride, count, out = arguments
        sixteens = builder.udiv(count, index(LANES))
        with cgutils.for_range(builder, sixteens, intp=ir.IntType(64)) as loop:
            start = builder.mul(loop.index, index(LANES))
            rows = [
                [vector_at(builder, source, builder.add(builder.mul(stride, index(r)), start), INTS)] for r in range(8)
            ]
            while len(rows) > 1:
                chunk = 8 // len(rows)
                rows = [_interleaved(builder, rows[i], rows[i + 1], chunk) for i in range(0, len(rows), 2)]
            for i, vector in enumerate(rows[0]):
                place = builder.add(builder.mul(start, index(8)), index(i * LANES))
                builder.store(vector, builder.bitcast(builder.gep(out, [place]), INTS.as_pointer()), align=4)

    return types.void(source, stride, count, out), generate


def _interleaved(builder, one, other, chunk: int):
    """Interleave two sequences of vectors, `chunk` elements from each in turn."""
    out = []
    for i in range(2 * len(one)):
        start = i % 2 * LANES // 2
        lanes = [start + j for j in range(LANES // 2)]
        mask = []
        for j in range(0, LANES // 2, chunk):
            mask += lanes[j : j + chunk] + [LANES + lane for lane in lanes[j : j + chunk]]
        out.append(builder.shuffle_vector(one[i // 2], other[i // 2], ir.Constant(INTS, mask)))
    return out
