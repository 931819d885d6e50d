"""Up to 4 rows times 16 or 64 outputs of a low-rank matrix, in LLVM instructions.

A, `[r, K]`, is stored as `[r / 16, K, 16]`, or where the processor multiplies pairs of bfloat16 as
`[r / 16, K / 2, 16, 2]`: the weights of 16 outputs for one input or pair are one vector, and four sums take turns over
them and are added in one order. B, `[N, r]`, is stored as `[N / 64, r, 64]`; each of its sums runs
over the inputs in their order. So a row's bits depend on its own numbers alone, whatever rows it shares weights with.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.primitives import BITS_BFLOAT16, BITS_FLOAT32
from handler.kernels.vectors import (
    BFLOATS,
    FLOATS,
    IN_ORDER,
    INTS,
    LANES,
    call,
    folded,
    index,
    load_rounded,
    multiply_add,
    splat,
    vector_at,
)

# Rows that share one reading of the weights.
MOST_ROWS = 4
# Inputs, or pairs of them, that `shrink_tile` takes at a time. Their number is a multiple of `INPUTS`.
TURNS = 4
INPUTS = 2 * TURNS
# Vectors of outputs that B has side by side.
SIDE = 4
_FLOAT, _BYTE, _INT = ir.FloatType(), ir.IntType(8), ir.IntType(32)


class _PairEmitter:
    """Emits the products of some rows with 16 outputs of A by AVX-512's bfloat16 dot products: two inputs at a time."""

    def __init__(self, builder, arguments) -> None:
        self.b = builder
        self.x, self.x_stride, self.weights, self.count = arguments

    def products(self, rows: int):
        """Vectors of 16 outputs, by row."""
        b, turns = self.b, TURNS

        def step(i, sums):
            following = list(sums)
            for turn in range(turns):
                pair = b.add(b.mul(i, index(turns)), index(turn))
                place = b.inttoptr(b.add(self.weights, b.mul(pair, index(LANES * 4))), INTS.as_pointer())
                weight = b.bitcast(b.load(place, align=4), BFLOATS)
                for r in range(rows):
                    at = b.add(b.mul(b.mul(self.x_stride, index(r)), index(2)), b.mul(pair, index(4)))
                    given = b.load(b.inttoptr(b.add(self.x, at), _INT.as_pointer()), align=2)
                    x = b.bitcast(splat(b, given, INTS), BFLOATS)
                    k = r * turns + turn
                    following[k] = call(b, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [sums[k], weight, x])
            return following

        start = [ir.Constant(FLOATS, [0.0] * LANES)] * (rows * turns)
        sums = folded(b, b.udiv(self.count, index(2 * turns)), start, step)
        return [_total(b, sums[i : i + turns]) for i in range(0, len(sums), turns)]


def _total(builder, sums):
    while len(sums) > 1:
        sums = [builder.fadd(sums[i], sums[i + 1], IN_ORDER) for i in range(0, len(sums), 2)]
    return sums[0]


class _Emitter:
    """Emits the products of some rows with `groups` vectors of outputs, of which the weights have `side`."""

    def __init__(self, builder, bits: tuple[int, int], shape: tuple[int, int, int], arguments) -> None:
        """`bits` of inputs and of weights; `shape`: `groups`, `side` and the inputs taken in turn."""
        self.b = builder
        (self.x_bits, self.bits), (self.groups, self.side, self.turns) = bits, shape
        self.x, self.x_stride, self.weights, self.count = arguments

    def products(self, rows: int):
        """Vectors of 16 outputs, by row and group."""
        b, groups, turns = self.b, self.groups, self.turns

        def step(i, sums):
            following = list(sums)
            for turn in range(turns):
                k = b.add(b.mul(i, index(turns)), index(turn)) if turns > 1 else i
                weights = [self._weight(k, g) for g in range(groups)]
                for r in range(rows):
                    x = self._input(r, k)
                    for g, weight in enumerate(weights):
                        at = (r * groups + g) * turns + turn
                        following[at] = multiply_add(b, x, weight, sums[at])
            return following

        start = [ir.Constant(FLOATS, [0.0] * LANES)] * (rows * groups * turns)
        sums = folded(b, b.udiv(self.count, index(turns)) if turns > 1 else self.count, start, step)
        return [_total(b, sums[i : i + turns]) for i in range(0, len(sums), turns)]

    def _place(self, address, number, size: int):
        return self.b.inttoptr(self.b.add(address, self.b.mul(number, index(size))), _BYTE.as_pointer())

    def _weight(self, k, group: int):
        b, size = self.b, LANES * self.bits // 8
        place = b.gep(self._place(self.weights, k, self.side * size), [index(group * size)])
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


def _by_rows(builder, rows, groups: int, out, out_stride, adds: bool, products) -> None:
    """Write or add what `products(number)` emits for each number of rows, 1 to 4, to float32 rows at `out`."""
    done = builder.append_basic_block()
    blocks = [builder.append_basic_block() for _ in range(MOST_ROWS)]
    switch = builder.switch(rows, blocks[0])
    for number, block in enumerate(blocks, 1):
        if number > 1:
            switch.add_case(index(number), block)
        builder.position_at_end(block)
        for i, vector in enumerate(products(number)):
            row = builder.add(out, builder.mul(out_stride, index(4 * (i // groups))))
            place = builder.inttoptr(builder.add(row, index(i % groups * LANES * 4)), FLOATS.as_pointer())
            if adds:
                vector = builder.fadd(builder.load(place, align=4), vector, IN_ORDER)
            builder.store(vector, place, align=4)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic(prefer_literal=True)
def shrink_tile(_context, rows, bits, paired, x, x_stride, weights, count, out, out_stride):  # pragma: no cover
    """Write the products of `rows` rows, 1 to 4, with 16 outputs of A to float32 rows at `out`.

    `bits` of an input and of a weight, and `paired`, whether A has pairs of bfloat16 inputs, are literal. `x`,
    `weights` and `out` are addresses, the strides elements from a row to the next. `weights` is one of `[r / 16, K,
    16]`, or of `[r / 16, K / 2, 16, 2]`; `count` is K, a multiple of 8.
    """
    each, in_pairs = bits.literal_value, bool(paired.literal_value)

    def generate(context, builder, _signature, arguments):
        rows, _, _, x, x_stride, weights, count, out, out_stride = arguments
        given = (x, x_stride, weights, count)
        emitter = _PairEmitter(builder, given) if in_pairs else _Emitter(builder, (each, each), (1, 1, TURNS), given)
        _by_rows(builder, rows, 1, out, out_stride, False, emitter.products)
        return context.get_dummy_value()

    return types.void(types.int64, bits, paired, *[types.int64] * 6), generate


@intrinsic(prefer_literal=True)
def expand_tile(_context, rows, bits, groups, adds, x, x_stride, weights, count, out, out_stride):  # pragma: no cover
    """Write, or add if `adds`, the products of `rows` rows, 1 to 4, with `groups` times 16 outputs of B at `out`.

    `bits` of a weight, `groups`, 1 to 4, and `adds` are literal. `x` float32; `weights` lies in one of
    `[N / 64, r, 64]`, at its first output; `count` is r. Otherwise as `shrink_tile`.
    """
    of_weight, many, adding = bits.literal_value, groups.literal_value, bool(adds.literal_value)

    def generate(context, builder, _signature, arguments):
        rows, _, _, _, x, x_stride, weights, count, out, out_stride = arguments
        emitter = _Emitter(builder, (BITS_FLOAT32, of_weight), (many, SIDE, 1), (x, x_stride, weights, count))
        _by_rows(builder, rows, many, out, out_stride, adding, emitter.products)
        return context.get_dummy_value()

    return types.void(types.int64, bits, groups, adds, *[types.int64] * 6), generate


@intrinsic
def add_nothing(_context, out):  # pragma: no cover
    """Write 64 numbers at the address `out` that change no bit of what they are added to: negative zeros."""

    def generate(context, builder, _signature, arguments):
        for g in range(SIDE):
            place = builder.inttoptr(builder.add(arguments[0], index(g * LANES * 4)), FLOATS.as_pointer())
            builder.store(ir.Constant(FLOATS, [-0.0] * LANES), place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def add_vectors(_context, terms, found, count):  # pragma: no cover
    """Add `count` vectors of 16 float32 numbers at the address `terms` to those at `found`."""

    def generate(context, builder, _signature, arguments):
        terms, found, count = arguments
        with cgutils.for_range(builder, count, intp=count.type) as loop:
            passed = builder.mul(loop.index, index(LANES * 4))
            places = [builder.inttoptr(builder.add(one, passed), FLOATS.as_pointer()) for one in (found, terms)]
            total = builder.fadd(*(builder.load(place, align=4) for place in places), flags=IN_ORDER)
            builder.store(total, places[0], align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
