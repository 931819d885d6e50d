"""Weights of a block as bfloat16, in LLVM instructions: codes in nibbles and high bits, table entries, bytes, floats.

Codes below 128 become bfloat16 without a conversion, two at once: 0x4300 is 128 in bfloat16, and a code fills its last
bits. Dot products therefore use 128 + code; 128 times the sum of the block's activations is subtracted afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from handler.kernels.product.block_form import BLOCK, FLOATS8, TABLE, BlockForm
from handler.kernels.vectors import (
    BFLOATS,
    BYTES,
    FLOATS,
    HALVES,
    INTS,
    LANES,
    SHORTS,
    call,
    index,
    vector_at,
)

_ALL_BYTES = ir.VectorType(ir.IntType(8), 2 * LANES)
_ALL_HALVES = ir.VectorType(ir.HalfType(), 2 * LANES)


class BlockWeights:
    """Emits the weights of a block for `groups` groups of 16 outputs."""

    def __init__(self, builder, form: BlockForm, groups: int, codes, blocks, table) -> None:
        """`codes` from `packed_codes` and `table` from `packed_table` are pointers, `blocks` counts a group's."""
        self.b, self.form, self.groups = builder, form, groups
        self.codes, self.blocks = codes, blocks
        self.table = vector_at(builder, table, index(0), SHORTS) if form.values == TABLE else None

    def pairs(self, block) -> Iterator[list[Any]]:
        """For each of the block's 16 pairs of inputs: the weights of both in bfloat16, for each group.

        A weight is its table entry, its 8-bit float less 8 in the exponent, its code of 8 bits, or 128 + code.
        """
        starts = [self._start(block, group) for group in range(self.groups)]
        if self.form.bits == 8:
            for pair in range(BLOCK // 2):
                yield [self._of_bytes(self.b.add(start, index(2 * LANES * pair))) for start in starts]
            return
        for quarter in range(4):
            found = [self._word(start, quarter) for start in starts]
            above = [self._word(start, 4 + quarter * (self.form.bits - 4) // 4) for start in starts]
            for step in range(4):
                yield [self._of_nibbles(*words, quarter, step) for words in zip(found, above, strict=True)]

    def _start(self, block, group: int):
        """A group's first byte of a block with 8 bits, else its first 32-bit number."""
        size = LANES * (BLOCK if self.form.bits == 8 else self.form.words)
        number = self.b.add(self.b.mul(index(group), self.blocks), block)
        return self.b.mul(number, index(size))

    def _word(self, start, number: int):
        """Vector `number` of the block; None past its last."""
        if number >= self.form.words:
            return None
        return vector_at(self.b, self.codes, self.b.add(start, index(number * LANES)), INTS, 4)

    def _of_nibbles(self, codes, above, quarter: int, step: int):
        """Two weights of each lane."""
        b = self.b
        shifted = self._shifted(codes, 4 * step)
        if self.table is not None:
            # The table is there twice and the permutation looks at five bits: those above a code need not be cleared.
            places = b.bitcast(shifted, SHORTS)
            return b.bitcast(call(b, "llvm.x86.avx512.permvar.hi.512", SHORTS, [self.table, places]), BFLOATS)
        kept = b.and_(shifted, ir.Constant(INTS, [0x000F000F] * LANES))
        kept = b.or_(kept, ir.Constant(INTS, [0x43004300] * LANES))
        if above is not None:
            high = self.form.bits - 4
            # Of each half of a number, bits `high * place` on belong to pair `place` of those that the number holds.
            place = (4 * quarter + step) % (LANES // high)
            mask = ((1 << high) - 1) << 4
            bits = b.and_(self._shifted(above, high * place - 4), ir.Constant(INTS, [mask << 16 | mask] * LANES))
            kept = b.or_(kept, bits)
        return b.bitcast(kept, BFLOATS)

    def _shifted(self, codes, distance: int):
        """To the right, or to the left if negative."""
        if not distance:
            return codes
        by = ir.Constant(INTS, [abs(distance)] * LANES)
        return self.b.lshr(codes, by) if distance > 0 else self.b.shl(codes, by)

    def _of_bytes(self, start):
        """32 bytes, the codes of two inputs for each of 16 outputs, as bfloat16; exact."""
        b = self.b
        codes = b.bitcast(self.codes, ir.IntType(8).as_pointer())
        if self.form.values == FLOATS8:
            halves = self._floats(vector_at(b, codes, start, _ALL_BYTES, 1))
        else:
            halves = [
                b.uitofp(b.zext(vector_at(b, codes, b.add(start, index(LANES * part)), BYTES, 1), INTS), FLOATS)
                for part in range(2)
            ]
        return call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, [halves[1], halves[0]])

    def _floats(self, codes):
        """e4m3 as float32, times 2^-8: float16 has one more bit of exponent, so the sign stays and the rest moves."""
        b = self.b
        moved = b.shl(b.sext(codes, SHORTS), ir.Constant(SHORTS, [7] * (2 * LANES)))
        wide = b.bitcast(b.and_(moved, ir.Constant(SHORTS, [0xBFFF] * (2 * LANES))), _ALL_HALVES)
        undefined = ir.Constant(_ALL_HALVES, ir.Undefined)
        lanes = [[LANES * half + lane for lane in range(LANES)] for half in range(2)]
        parts = [b.shuffle_vector(wide, undefined, ir.Constant(INTS, half)) for half in lanes]
        assert parts[0].type == HALVES
        return [b.fpext(part, FLOATS) for part in parts]
