"""Vectors of 16 lanes in LLVM's instructions: types, loads, copies of one number into all lanes."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16


class _BFloat(ir.Type):  # type: ignore[misc]
    """llvmlite has no name for it."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
BYTES = ir.VectorType(ir.IntType(8), LANES)
HALVES = ir.VectorType(ir.HalfType(), LANES)
# Two in each lane.
BFLOATS = ir.VectorType(_BFloat(), 2 * LANES)
_ROUNDED = ir.VectorType(_BFloat(), LANES)


def index(number: int):
    """A constant of 64 bits."""
    return ir.Constant(ir.IntType(64), number)


def splat(builder, scalar, kind):
    """`scalar` in every lane of a vector of `kind`."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(INTS, [0] * LANES))


def vector_at(builder, pointer, offset, kind, align: int = 2):
    """Load a vector, `offset` elements behind `pointer`."""
    return builder.load(builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer()), align=align)


def call(builder, name: str, result, arguments):
    """Call one of LLVM's own functions."""
    kinds = [argument.type for argument in arguments]
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name), arguments)


@intrinsic
def write_rounded(_context, source, start, count, target, at):  # pragma: no cover
    """Round `count` vectors of float32 at `start` to bfloat16 at `at`. Needs AVX-512 with bfloat16."""

    def generate(_context, builder, _signature, arguments):
        source, start, count, target, at = arguments
        with cgutils.for_range(builder, count, intp=ir.IntType(64)) as loop:
            passed = builder.mul(loop.index, index(LANES))
            numbers = vector_at(builder, source, builder.add(start, passed), FLOATS, 4)
            rounded = call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", _ROUNDED, [numbers])
            place = builder.gep(target, [builder.add(at, passed)])
            builder.store(rounded, builder.bitcast(place, _ROUNDED.as_pointer()), align=2)

    return types.void(source, start, count, target, at), generate
