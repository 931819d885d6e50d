"""Unpacks weights of 4 and 8 bits to bfloat16 tiles for the matrix unit, in LLVM instructions.

A weight is `scale * code + minimum` in float32, rounded to the nearest bfloat16. With 4 bits, an output has 16 distinct
weights in a block: they are computed once, in 16 lanes, and each weight is looked up in that register by its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from llvmlite import ir

from handler.kernels.product.block_form import BLOCK
from handler.kernels.tiles import LINE, TILE_ROWS, bytes_behind
from handler.kernels.vectors import (
    BFLOATS,
    BYTES,
    FLOATS,
    HALVES,
    INTS,
    LANES,
    call,
    fetch,
    index,
    multiply_add,
    splat,
    vector_at,
)

# Bytes of a 16-output block's scales and minima: in float16, and in float32 as scratch.
SCALES_BYTES = 2 * LANES * 2
WIDE_SCALES_BYTES = 2 * LANES * 4
# Codes are prefetched this many blocks before they are unpacked.
_FETCHED = 12

_ALL_BYTES = ir.VectorType(ir.IntType(8), LINE)
_FLOAT = ir.FloatType()
# Bits of an index byte that select a float32 in a register; the two below select its byte.
_WHICH_NUMBER = 0x3C
# Half of bfloat16's last bit, so that ties round up or down. One weight in ten is a tie: the direction depends on the
# code, so that rounding does not shift sums.
_UP, _DOWN = 0x8000, 0x7FFF
_HALVES = (_UP, _DOWN, _DOWN, _UP) * 4
# The upper half of a float32: bytes 2 and 3.
_UPPER_HALF = (2, 3)


def codes_bytes(bits: int) -> int:
    """Bytes of the codes of a block of 16 outputs."""
    return TILE_ROWS * BLOCK * bits // 8


def fetch_block(builder, block, blocks, here, there, size: int) -> None:
    """Prefetch block number `block`, of `size` bytes, from `here` on; past the last, from `there` on."""
    is_here = builder.icmp_signed("<", block, blocks)
    number = builder.select(is_here, block, builder.sub(block, blocks))
    place = bytes_behind(builder, builder.select(is_here, here, there), builder.mul(number, index(size)))
    for line in range(0, size, LINE):
        fetch(builder, bytes_behind(builder, place, index(line)))


class Unpacker:
    """Emits the unpacking of one tile, bfloat16 `[16, 32]`."""

    def __init__(self, builder, bits: int, blocks, here, following, wide) -> None:
        """`here`: codes from `tiled_codes` and scales from `packed_scales`, of one group of 16 outputs.

        `following`: both, of the group that this thread unpacks next. `wide` has `WIDE_SCALES_BYTES`. Addresses.
        """
        self.b = builder
        self.bits, self.blocks, self.here, self.following, self.wide = bits, blocks, here, following, wide
        self.codes, self.scales = here

    def parts(self, block, to) -> Iterator[Callable[[], None]]:
        """Emitters of the tile of `block` at `to`, in parts, so that other instructions can be interleaved."""
        codes = bytes_behind(self.b, self.codes, self.b.mul(block, index(codes_bytes(self.bits))))
        yield partial(self._start, block)
        for four in range(4):
            yield partial(self._four_looked_up if self.bits == 4 else self._four_converted, codes, to, four)

    def _start(self, block) -> None:
        """Prefetch a later block and widen this one's scales."""
        b, later = self.b, self.b.add(block, index(_FETCHED))
        for here, there, size in zip(self.here, self.following, (codes_bytes(self.bits), SCALES_BYTES), strict=True):
            fetch_block(b, later, self.blocks, here, there, size)
        scales = bytes_behind(b, self.scales, b.mul(block, index(SCALES_BYTES)))
        for half in range(2):
            found = vector_at(b, b.bitcast(scales, ir.HalfType().as_pointer()), index(half * LANES), HALVES)
            place = bytes_behind(b, self.wide, index(half * LANES * 4))
            b.store(b.fpext(found, FLOATS), b.bitcast(place, FLOATS.as_pointer()), align=4)
        # Makes the scales be read from memory again, one for all lanes: shuffling them out of the register would
        # compete with the lookups of weights.
        b.asm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", (), True)

    def _number(self, output: int, which: int):
        """An output's scale (0) or minimum (1) in all lanes."""
        place = bytes_behind(self.b, self.wide, index((which * LANES + output) * 4))
        return splat(self.b, self.b.load(self.b.bitcast(place, _FLOAT.as_pointer()), align=4), FLOATS)

    def _weights(self, output: int, codes):
        """`scale * code + minimum` for 16 codes."""
        return multiply_add(self.b, codes, self._number(output, 0), self._number(output, 1))

    def _write(self, to, output: int, row) -> None:
        place = bytes_behind(self.b, to, index(output * LINE))
        self.b.store(row, self.b.bitcast(place, row.type.as_pointer()), align=LINE)

    def _four_looked_up(self, codes, to, four: int) -> None:
        b = self.b
        found = b.load(b.bitcast(bytes_behind(b, codes, index(four * LINE)), _ALL_BYTES.as_pointer()), align=1)
        for j in range(4):
            output = 4 * four + j
            numbers = b.bitcast(self._weights(output, ir.Constant(FLOATS, [float(n) for n in range(LANES)])), INTS)
            table = b.bitcast(b.add(numbers, ir.Constant(INTS, [*_HALVES])), _ALL_BYTES)
            # First bit of each index byte in its 64 bits: two below its code, twice for each code.
            starts = [(16 * j + 4 * i - 2) % 64 for i in range(4) for _ in range(2)] * 8
            places = call(b, "llvm.x86.avx512.pmultishift.qb.512", _ALL_BYTES, [ir.Constant(_ALL_BYTES, starts), found])
            places = b.and_(places, ir.Constant(_ALL_BYTES, [_WHICH_NUMBER] * LINE))
            places = b.or_(places, ir.Constant(_ALL_BYTES, [*_UPPER_HALF] * (LINE // 2)))
            self._write(to, output, call(b, "llvm.x86.avx512.permvar.qi.512", _ALL_BYTES, [table, places]))

    def _four_converted(self, codes, to, four: int) -> None:
        b = self.b
        for output in range(4 * four, 4 * four + 4):
            halves = []
            for half in range(2):
                found = vector_at(b, codes, index(output * BLOCK + half * LANES), BYTES, 1)
                halves.append(self._weights(output, b.uitofp(b.zext(found, INTS), FLOATS)))
            row = call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, [halves[1], halves[0]])
            self._write(to, output, b.bitcast(row, INTS))
