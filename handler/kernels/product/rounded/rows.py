"""Activations rounded to int8 in groups, in LLVM instructions.

`x` of a group becomes `step * q`, `step` a hundred-and-twenty-seventh of its largest absolute value. Every row is
rounded alone and in one way, so that its bits do not depend on other rows.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.product.block_form import BLOCK, MINIMUM, BlockForm
from handler.kernels.vectors import FLOATS, INTS, LANES, call, index, load_rounded, splat

# Inputs of a dot product's lane, and lanes of a block.
_EACH = 4
QUADS = BLOCK // _EACH
_LARGEST = 127.0
_INT, _LONG, _BYTE = ir.IntType(32), ir.IntType(64), ir.IntType(8)


def quad_inputs(bits: int) -> list[int]:
    """The 32 inputs of a block in the order in which `rounded_tile` multiplies them, four of a lane at a time."""
    if bits == 8:
        return list(range(BLOCK))
    # The low nibbles of the four octets of a number of `packed_codes`, then its high ones.
    return [8 * quarter + first + one for quarter in range(4) for first in (0, 2) for one in (0, 4, 1, 5)]


class _Rounder:
    """Emits one group of a row: `span` blocks that share a scale of the weights, or one block."""

    def __init__(self, builder, form: BlockForm, source) -> None:
        """`source` is the address of the row."""
        self.b, self.form, self.source = builder, form, source

    def group(self, number):
        """The step, and for each block the integers as two vectors."""
        b, span = self.b, self.form.span
        first = b.mul(number, index(span * BLOCK * 2))
        address = b.add(self.source, first)
        places = [b.add(address, index(2 * LANES * i)) for i in range(2 * span)]
        halves = [load_rounded(b, b.inttoptr(place, _BYTE.as_pointer())) for place in places]
        largest = self._largest(halves)
        step = b.fmul(largest, ir.Constant(ir.FloatType(), 1 / _LARGEST))
        some = b.fcmp_unordered("!=", largest, ir.Constant(ir.FloatType(), 0.0))
        one = b.fdiv(ir.Constant(ir.FloatType(), _LARGEST), largest)
        times = splat(b, b.select(some, one, ir.Constant(ir.FloatType(), 0.0)), FLOATS)
        return step, [self._rounded(b.fmul(half, times)) for half in halves]

    def _largest(self, halves):
        """The largest absolute value. By integers, for which a NaN is larger than all numbers."""
        b, sizes = self.b, ir.Constant(INTS, [0x7FFFFFFF] * LANES)
        found = [b.and_(b.bitcast(half, INTS), sizes) for half in halves]
        while len(found) > 1:
            found = [self._larger(found[i], found[i + 1]) for i in range(0, len(found), 2)]
        vector, half = found[0], LANES // 2
        while half:
            mask = ir.Constant(INTS, [lane ^ half for lane in range(LANES)])
            vector = self._larger(vector, b.shuffle_vector(vector, vector, mask))
            half //= 2
        return b.bitcast(b.extract_element(vector, ir.Constant(_INT, 0)), ir.FloatType())

    def _larger(self, one, other):
        return self.b.select(self.b.icmp_unsigned(">", one, other), one, other)

    def _rounded(self, numbers):
        """To nearest, ties to even; what is no number becomes 0, and its step is none either."""
        kept = [ir.Constant(INTS, [0] * LANES), ir.Constant(ir.IntType(16), -1), ir.Constant(_INT, 8)]
        return call(self.b, "llvm.x86.avx512.mask.cvtps2dq.512", INTS, [numbers, *kept])

    def sums(self, halves):
        """The sum of the integers of each scale of the weights."""
        b = self.b
        if self.form.parts == 2:
            return [self._sum(half) for half in halves]
        total = halves[0]
        for half in halves[1:]:
            total = b.add(total, half)
        return [self._sum(total)]

    def _sum(self, vector):
        half = LANES // 2
        while half:
            mask = ir.Constant(INTS, [lane ^ half for lane in range(LANES)])
            vector = self.b.add(vector, self.b.shuffle_vector(vector, vector, mask))
            half //= 2
        return self.b.extract_element(vector, ir.Constant(_INT, 0))

    def quads(self, low, high):
        """The integers of a block as bytes, four in each of 8 numbers."""
        b, narrow = self.b, ir.VectorType(_BYTE, LANES)
        order = ir.Constant(ir.VectorType(_INT, BLOCK), quad_inputs(self.form.bits))
        both = b.shuffle_vector(b.trunc(low, narrow), b.trunc(high, narrow), order)
        numbers = b.bitcast(both, ir.VectorType(_INT, QUADS))
        return [b.extract_element(numbers, ir.Constant(_INT, i)) for i in range(QUADS)]


@intrinsic(prefer_literal=True)
def round_row(_context, form, source, groups, quads, steps, sums, stride):  # pragma: no cover
    """Round a row of `groups` groups, and write what `rounded_tile` reads, each number `stride` after the last.

    `form`, a `BlockForm.number`, is literal; `source` is the address of bfloat16. `quads` int32 `[K / 4]`; `steps`
    float32 `[groups]`; `sums`, one for each scale of an output: step times the sum of the integers as float32, or
    minus the weights' zero times that sum as int32 where they have no minima.
    """
    of_form = BlockForm.of_number(form.literal_value)

    def generate(_context, builder, _signature, arguments):
        _, source, groups, quads, steps, sums, stride = arguments
        b, rounder = builder, _Rounder(builder, of_form, source)

        def put(value, pointer, number):
            place = b.gep(pointer, [b.mul(number, stride)])
            b.store(value, b.bitcast(place, value.type.as_pointer()), align=4)

        with cgutils.for_range(b, groups, intp=_LONG) as loop:
            group = loop.index
            step, halves = rounder.group(group)
            put(step, steps, group)
            for part, total in enumerate(rounder.sums(halves)):
                if of_form.zero == MINIMUM:
                    total = b.fmul(b.sitofp(total, ir.FloatType()), step)
                else:
                    total = b.mul(total, ir.Constant(_INT, -of_form.zero))
                put(total, sums, b.add(b.mul(group, index(of_form.parts)), index(part)))
            for block in range(of_form.span):
                first = b.mul(b.add(b.mul(group, index(of_form.span)), index(block)), index(QUADS))
                for i, quad in enumerate(rounder.quads(*halves[2 * block : 2 * block + 2])):
                    put(quad, quads, b.add(first, index(i)))

    return types.void(form, types.int64, types.int64, quads, steps, sums, types.int64), generate
