"""Arguments of the product kernels, and how products become a layer's output."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.team import NUM_COMMON
from handler.kernels.vectors import (
    FLOATS,
    LANES,
    exp_of_negatives,
    index,
    load_rounded,
    reciprocal,
    store_rounded,
    vector_at,
)

NONE, SILU, TIMES, PLUS = range(4)

# After the common arguments: those that change from call to call, then those that do not. `X`, `OTHER`, `OUT` and
# `BIAS` are addresses of bfloat16, the last 0 without a bias.
X, OTHER, OPERATION, OUT = range(NUM_COMMON, NUM_COMMON + 4)
# What adapters add, as `low_rank.added` takes it; `SHRUNK` is 0 for nothing.
SHRUNK, SLOTS = range(NUM_COMMON + 4, NUM_COMMON + 6)
# `OUT_WIDTH` counts the numbers from a row of `OUT` and of `OTHER` to the next. `FACTOR` is float32 in the lower half.
NUM_GROUPS, NUM_BLOCKS, CODES, SCALES, BIAS, OUT_WIDTH, TABLE, FACTOR = range(NUM_COMMON + 6, NUM_COMMON + 14)
SHRUNK_WIDTH, UPS, ENDS, NUM_SECTIONS = range(NUM_COMMON + 14, NUM_COMMON + 18)
# What is fetched meanwhile, as `low_rank.ahead` takes it.
AHEAD, AHEAD_BEGIN, AHEAD_END, AHEAD_WHOLE = range(NUM_COMMON + 18, NUM_COMMON + 22)
NUM_ARGUMENTS = NUM_COMMON + 22

# Groups of 16 outputs that a thread takes at a time.
GROUPS = 4

_LONG, _BYTE = ir.IntType(64), ir.IntType(8)
_ROUNDED_BYTES = 2 * LANES


@intrinsic
def write_outputs(_context, arguments, products, num_rows, num_groups, row, group):  # pragma: no cover
    """Turn `products`, float32 `[num_rows, num_groups * 16]`, into output from `row` and `group` on, rounded once.

    `arguments` are the kernel's.
    """

    def generate(_context, builder, _signature, values):
        arguments, products, num_rows, num_groups, row, group = values

        def argument(place: int):
            return builder.load(builder.gep(arguments, [index(place)]))

        bias, other, out = argument(BIAS), argument(OTHER), argument(OUT)
        width = argument(OUT_WIDTH)
        first = builder.add(builder.mul(row, width), builder.mul(group, index(LANES)))
        rows = _Rows(builder, products, num_rows, num_groups, first, width)
        has_bias = builder.icmp_signed("!=", bias, index(0))
        start = builder.add(bias, builder.mul(group, index(_ROUNDED_BYTES)))
        operation = argument(OPERATION)
        for kind, compute in _COMPUTED.items():
            chosen = builder.icmp_signed("==", operation, index(kind))
            with builder.if_then(chosen), builder.if_else(has_bias) as (then, otherwise):
                with then:
                    rows.write(compute, start, other, out)
                with otherwise:
                    rows.write(compute, None, other, out)

    return types.void(arguments, products, num_rows, num_groups, row, group), generate


class _Rows:
    """Emits the loop over rows and groups of products."""

    def __init__(self, builder, products, num_rows, num_groups, first, width) -> None:
        """`first`: index of the first output element."""
        self.b = builder
        self.products, self.num_rows, self.num_groups = products, num_rows, num_groups
        self.first, self.width = first, width

    def write(self, compute, bias, other, out) -> None:
        """Emit `compute(builder, y, other)` for each vector `y`, plus `bias` if not None; all three are addresses."""
        b = self.b
        with cgutils.for_range(b, self.num_rows, intp=_LONG) as by_row:
            source = b.mul(by_row.index, b.mul(self.num_groups, index(LANES)))
            start = b.add(self.first, b.mul(by_row.index, self.width))
            with cgutils.for_range(b, self.num_groups, intp=_LONG) as by_group:
                passed = b.mul(by_group.index, index(LANES))
                y = vector_at(b, self.products, b.add(source, passed), FLOATS, 4)
                if bias is not None:
                    y = b.fadd(y, load_rounded(b, self._at(bias, passed)))
                place = b.add(start, passed)
                result = compute(b, y, lambda place=place: load_rounded(b, self._at(other, place)))
                store_rounded(b, result, self._at(out, place))

    def _at(self, address, number):
        """A pointer to bfloat16 number `number` after an address."""
        return self.b.inttoptr(self.b.add(address, self.b.mul(number, index(2))), _BYTE.as_pointer())


def _silu(builder, y, _other):
    """`y * sigmoid(y)`, from e^-|y|, which does not overflow."""
    one = ir.Constant(FLOATS, [1.0] * LANES)
    positive = builder.fcmp_ordered(">=", y, ir.Constant(FLOATS, [0.0] * LANES))
    e = exp_of_negatives(builder, builder.select(positive, builder.fneg(y), y))
    return builder.fmul(builder.fmul(y, builder.select(positive, one, e)), reciprocal(builder, builder.fadd(one, e)))


_COMPUTED: dict[int, Any] = {
    NONE: lambda _builder, y, _other: y,
    SILU: _silu,
    TIMES: lambda builder, y, other: builder.fmul(y, other()),
    PLUS: lambda builder, y, other: builder.fadd(y, other()),
}
