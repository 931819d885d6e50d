"""Weights of a block as bfloat16, in LLVM instructions: codes in nibbles and high bits, bytes, table entries.

Codes below 128 become bfloat16 without a conversion, two at once: 0x4300 is 128 in bfloat16, and a code fills its last
bits. Dot products therefore use 128 + code; 128 times the sum of the block's activations is subtracted afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from handler.kernels.product.block_form import BLOCK, TABLE, BlockForm
from handler.kernels.vectors import (
    BFLOATS,
    BYTES,
    FLOATS,
    INTS,
    LANES,
    SHORTS,
    call,
    index,
    vector_at,
)

_BYTE, _LINE = ir.IntType(8), 4 * LANES
_ALL_BYTES = ir.VectorType(_BYTE, _LINE)


class BlockWeights:
    """Emits the weights of a block for `groups` groups of 16 outputs."""

    def __init__(self, builder, form: BlockForm, groups: int, codes, blocks, table) -> None:
        """`codes` from `packed_codes` and `table` from `packed_table` are pointers, `blocks` counts a group's."""
        self.b, self.form, self.groups = builder, form, groups
        self.codes, self.blocks = codes, blocks
        self.by_table, self.table = form.values == TABLE, []
        if self.by_table and form.bits == 8:
            entries = builder.bitcast(table, _BYTE.as_pointer())
            self.table = [vector_at(builder, entries, index(_LINE * i), _ALL_BYTES, 1) for i in range(4)]
        elif self.by_table:
            self.table = [vector_at(builder, table, index(0), SHORTS)]

    def pairs(self, block) -> Iterator[list[Any]]:
        """For each of the block's 16 pairs of inputs: the weights of both in bfloat16, for each group.

        A weight is its table entry, its code of 8 bits, or 128 + code.
        """
        starts = [self._start(block, group) for group in range(self.groups)]
        if self.form.bits == 8 and self.by_table:
            for two in range(BLOCK // 4):
                found = [self._looked_up(self.b.add(start, index(_LINE * two))) for start in starts]
                yield from ([both[pair] for both in found] for pair in range(2))
            return
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
        if self.by_table:
            # The table is there twice and the permutation looks at five bits: those above a code need not be cleared.
            places = b.bitcast(shifted, SHORTS)
            return b.bitcast(call(b, "llvm.x86.avx512.permvar.hi.512", SHORTS, [*self.table, places]), BFLOATS)
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
        halves = [
            b.uitofp(b.zext(vector_at(b, codes, b.add(start, index(LANES * part)), BYTES, 1), INTS), FLOATS)
            for part in range(2)
        ]
        return call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, [halves[1], halves[0]])

    def _looked_up(self, start):
        """64 bytes, the codes of four inputs for each of 16 outputs: the weights of two inputs, and of two more.

        The permutation looks at seven bits of a code; the eighth is the sign. Low and high bytes are looked up apart.
        """
        b = self.b
        codes = vector_at(b, b.bitcast(self.codes, _BYTE.as_pointer()), start, _ALL_BYTES, 1)
        low, high = (
            call(b, "llvm.x86.avx512.vpermi2var.qi.512", _ALL_BYTES, [self.table[i], codes, self.table[i + 1]])
            for i in (0, 2)
        )
        high = b.or_(high, b.and_(codes, ir.Constant(_ALL_BYTES, [0x80] * _LINE)))
        out = []
        for half in range(2):
            lanes = [LANES * lane + 8 * half + i for lane in range(4) for i in range(8)]
            mask = [lane + _LINE * which for lane in lanes for which in range(2)]
            kind = ir.VectorType(ir.IntType(32), _LINE)
            out.append(b.bitcast(b.shuffle_vector(low, high, ir.Constant(kind, mask)), BFLOATS))
        return out
