"""What kernels need and Python lacks: typed access to addresses, bfloat16, tickets.

A kernel is a C function whose one parameter is the address of its arguments, 64-bit integers. bfloat16 is read as
float32 and rounded to nearest even when written.
"""

from __future__ import annotations

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from handler.kernels.team import TEAM_SIZE, THREAD_NUMBER
from handler.kernels.vectors import EXP_FACTORS, fetch

BITS_BFLOAT16 = 16
BITS_FLOAT32 = 32
BITS = {torch.bfloat16: BITS_BFLOAT16, torch.float32: BITS_FLOAT32}
# The compiler may reorder sums for the vector units: the order is fixed at compile time, the same for every row.
# NaN and infinity keep their meaning, so that a damaged sequence shows.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}

ARGUMENTS = types.void(types.CPointer(types.int64))

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)


@intrinsic(prefer_literal=True)
def elements(_context, address, bits):  # pragma: no cover
    """The address as a pointer to bfloat16 or float32 numbers, for `load` and `store`."""
    kind = types.uint16 if bits.literal_value == BITS_BFLOAT16 else types.float32

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(types.int64, bits), generate


@intrinsic
def integers(_context, address):  # pragma: no cover
    """The address as a pointer to 64-bit integers."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def bytes_at(_context, address):  # pragma: no cover
    """The address as a pointer to 32-bit integers."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int32)(types.int64), generate


@intrinsic
def shifted(_context, pointer, index):  # pragma: no cover
    """The pointer to the number at `index`."""

    def generate(_context, builder, _signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.int64), generate


@intrinsic
def load(_context, pointer, index):  # pragma: no cover
    """The number at `index`, as float32."""

    def generate(_context, builder, signature, arguments):
        found = builder.load(builder.gep(arguments[0], [arguments[1]]))
        if signature.args[0].dtype == types.float32:
            return found
        shifted = builder.shl(builder.zext(found, _I32), ir.Constant(_I32, 16))
        return builder.bitcast(shifted, ir.FloatType())

    return types.float32(pointer, types.int64), generate


@intrinsic
def store(_context, pointer, index, number):  # pragma: no cover
    """Write a float32 at `index`, rounded."""

    def generate(_context, builder, signature, arguments):
        target = builder.gep(arguments[0], [arguments[1]])
        if signature.args[0].dtype == types.float32:
            builder.store(arguments[2], target)
            return
        bits = builder.bitcast(arguments[2], _I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(_I32, 0x7FFF)))
        # Rounding must not turn a NaN into an infinity.
        is_nan = builder.fcmp_unordered("uno", arguments[2], arguments[2])
        chosen = builder.select(is_nan, builder.or_(bits, ir.Constant(_I32, 0x400000)), rounded)
        builder.store(builder.trunc(builder.lshr(chosen, ir.Constant(_I32, 16)), ir.IntType(16)), target)

    return types.void(pointer, types.int64, types.float32), generate


@intrinsic
def prefetch(_context, pointer, index):  # pragma: no cover
    """Prefetch the number at `index`; any index is allowed, also past the end of the memory."""

    def generate(_context, builder, _signature, arguments):
        pointer, index = arguments
        fetch(builder, builder.bitcast(builder.gep(pointer, [index]), ir.IntType(8).as_pointer()))

    return types.void(pointer, types.int64), generate


@intrinsic
def fetch_to_write(_context, address, count, stride):  # pragma: no cover
    """Prefetch `count` cache lines, `stride` bytes apart, for writing."""

    def generate(_context, builder, _signature, arguments):
        address, count, stride = arguments
        with cgutils.for_range(builder, count, intp=_I64) as loop:
            place = builder.add(address, builder.mul(stride, loop.index))
            fetch(builder, builder.inttoptr(place, ir.IntType(8).as_pointer()), to_write=True)

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def take_ticket(_context, arguments, index):  # pragma: no cover
    """Atomically add one to an argument and return its old value: no two threads get the same number."""

    def generate(_context, builder, _signature, values):
        counter = builder.gep(values[0], [values[1]])
        return builder.atomic_rmw("add", counter, ir.Constant(_I64, 1), "monotonic")

    return types.int64(arguments, types.int64), generate


@intrinsic
def _ask_team(_context, function, alone):  # pragma: no cover
    """The result of the OpenMP function at an address, or `alone` if the address is 0."""

    def generate(_context, builder, _signature, arguments):
        function, alone = arguments
        with builder.if_else(builder.icmp_signed("==", function, ir.Constant(_I64, 0))) as (nobody, team):
            with nobody:
                before = builder.block
            with team:
                kind = ir.FunctionType(_I32, ()).as_pointer()
                found = builder.sext(builder.call(builder.inttoptr(function, kind), ()), _I64)
                asked = builder.block
        answer = builder.phi(_I64)
        answer.add_incoming(alone, before)
        answer.add_incoming(found, asked)
        return answer

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call_function(_context, function, argument):  # pragma: no cover
    """Call the kernel at address `function` with the address of its arguments."""

    def generate(_context, builder, _signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_I64.as_pointer()]).as_pointer()
        where = builder.inttoptr(arguments[1], _I64.as_pointer())
        builder.call(builder.inttoptr(arguments[0], kind), [where])

    return types.void(types.int64, types.int64), generate


@intrinsic
def _float_of(_context, bits):  # pragma: no cover
    def generate(_context, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def float_argument(_context, arguments, index):  # pragma: no cover
    """The argument at `index`, whose lower half holds a float32."""

    def generate(_context, builder, _signature, values):
        found = builder.load(builder.gep(values[0], [values[1]]))
        return builder.bitcast(builder.trunc(found, _I32), ir.FloatType())

    return types.float32(arguments, types.int64), generate


# A function inlined into the kernels that call it.
inlined = njit(inline="always", fastmath=FAST_MATH, error_model="numpy")
# A function that may stay separate.
called = njit(fastmath=FAST_MATH, error_model="numpy")


@called
def thread_number(arguments):  # pragma: no cover
    """This thread's number in the team; `arguments` are the kernel's."""
    return _ask_team(arguments[THREAD_NUMBER], 0)


@called
def team_size(arguments):  # pragma: no cover
    """Number of threads in the team, which may be fewer than requested."""
    return _ask_team(arguments[TEAM_SIZE], 1)


@called
def share_of(arguments, count):  # pragma: no cover
    """This thread's share of `count` items: the first, and the one after the last.

    A thread has the same share each time. Tickets would contend, and move data from one thread's cache to another's.
    """
    thread, size = thread_number(arguments), team_size(arguments)
    return count * thread // size, count * (thread + 1) // size


@inlined
def exp_of_negative(x):  # pragma: no cover
    """e^x in float32 for x <= 0, by Cephes' polynomial, which vectorises; the library's function does not."""
    x = max(x, np.float32(-87.0))
    whole = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    rest = x - whole * np.float32(0.693359375) - whole * np.float32(-2.12194440e-4)
    y = np.float32(EXP_FACTORS[0])
    y = y * rest + np.float32(EXP_FACTORS[1])
    y = y * rest + np.float32(EXP_FACTORS[2])
    y = y * rest + np.float32(EXP_FACTORS[3])
    y = y * rest + np.float32(EXP_FACTORS[4])
    y = y * rest + np.float32(EXP_FACTORS[5])
    y = y * rest * rest + rest + np.float32(1.0)
    return y * _float_of(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))
