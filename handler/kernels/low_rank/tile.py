"""Up to 4 rows times 16 outputs of a low-rank matrix, in LLVM instructions.

A matrix `[N, K]` is stored as `[N / 16, K, 16]`: the weights of 16 outputs for one input are one vector. Both factors
of an adapter have this form. Four sums take turns over the inputs and are added in one order, so that a row's bits
depend on its own numbers alone, whatever rows it shares the weights with.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from handler.kernels.primitives import BITS_BFLOAT16
from handler.kernels.vectors import (
    FLOATS,
    IN_ORDER,
    LANES,
    fetch,
    folded,
    index,
    load_rounded,
    multiply_add,
    splat,
    vector_at,
)

# Rows that share one reading of the weights.
MOST_ROWS = 4
# Inputs are taken by so many; the number of inputs is a multiple.
INPUTS = 4
# Bytes by which weights are prefetched.
_AHEAD = 1024
_FLOAT, _BYTE, _INT = ir.FloatType(), ir.IntType(8), ir.IntType(32)


class _Emitter:
    """Emits the products of `rows` rows."""

    def __init__(self, builder, x_bits: int, bits: int, arguments) -> None:
        self.b, self.x_bits, self.bits = builder, x_bits, bits
        self.x, self.x_stride, self.weights, self.count = arguments

    def products(self, rows: int):
        """A vector of 16 outputs for each row."""
        b = self.b

        def step(i, sums):
            following = list(sums)
            for turn in range(INPUTS):
                k = b.add(b.mul(i, index(INPUTS)), index(turn))
                weight = self._weight(k)
                for r in range(rows):
                    at = r * INPUTS + turn
                    following[at] = multiply_add(b, self._input(r, k), weight, sums[at])
            return following

        start = [ir.Constant(FLOATS, [0.0] * LANES)] * (rows * INPUTS)
        sums = folded(b, b.udiv(self.count, index(INPUTS)), start, step)
        return [self._total(sums[r * INPUTS : (r + 1) * INPUTS]) for r in range(rows)]

    def _total(self, sums):
        one, other = (self.b.fadd(sums[i], sums[i + 1], IN_ORDER) for i in (0, 2))
        return self.b.fadd(one, other, IN_ORDER)

    def _place(self, address, number, size: int):
        return self.b.inttoptr(self.b.add(address, self.b.mul(number, index(size))), _BYTE.as_pointer())

    def _weight(self, k):
        b, size = self.b, LANES * self.bits // 8
        place = self._place(self.weights, k, size)
        fetch(b, b.gep(place, [index(_AHEAD)]))
        if self.bits == BITS_BFLOAT16:
            return load_rounded(b, place)
        return vector_at(b, b.bitcast(place, _FLOAT.as_pointer()), index(0), FLOATS, 4)

    def _input(self, row: int, k):
        b = self.b
        place = self._place(self.x, b.add(b.mul(self.x_stride, index(row)), k), self.x_bits // 8)
        if self.x_bits == BITS_BFLOAT16:
            half = b.load(b.bitcast(place, ir.IntType(16).as_pointer()))
            return splat(b, b.bitcast(b.shl(b.zext(half, _INT), ir.Constant(_INT, 16)), _FLOAT), FLOATS)
        return splat(b, b.load(b.bitcast(place, _FLOAT.as_pointer())), FLOATS)


@intrinsic(prefer_literal=True)
def low_rank_tile(_context, rows, kind, x, x_stride, weights, count, out, out_stride):  # pragma: no cover
    """Write or add the products of `rows` rows, 1 to 4, with one group of 16 outputs to float32 rows at `out`.

    `kind`, literal, is from `tile_kind`. `x`, `weights` and `out` are addresses, the strides elements from a row to the
    next; `weights` is one group of `[N / 16, K, 16]`; `count` is K, a multiple of 4.
    """
    x_bits, bits, adds = kind.literal_value // 1000, kind.literal_value // 10 % 100, kind.literal_value % 10

    def generate(context, builder, _signature, arguments):
        rows, _, x, x_stride, weights, count, out, out_stride = arguments
        emitter, done = _Emitter(builder, x_bits, bits, (x, x_stride, weights, count)), builder.append_basic_block()
        blocks = [builder.append_basic_block() for _ in range(MOST_ROWS)]
        switch = builder.switch(rows, blocks[0])
        for number, block in enumerate(blocks, 1):
            if number > 1:
                switch.add_case(index(number), block)
            builder.position_at_end(block)
            for r, vector in enumerate(emitter.products(number)):
                at = builder.add(out, builder.mul(out_stride, index(4 * r)))
                place = builder.inttoptr(at, FLOATS.as_pointer())
                if adds:
                    vector = builder.fadd(builder.load(place, align=4), vector, IN_ORDER)
                builder.store(vector, place, align=4)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    kinds = (types.int64, kind, *[types.int64] * 6)
    return types.void(*kinds), generate


def tile_kind(x_bits: int, bits: int, adds: bool) -> int:
    """Which `low_rank_tile`: bits of an input and of a weight, and whether it adds to what is there."""
    return x_bits * 1000 + bits * 10 + adds
