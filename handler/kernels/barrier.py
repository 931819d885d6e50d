"""The barrier of kernels: threads spin for some microseconds, then sleep until the last one arrives.

libgomp's barrier spins for 15 ms on two cores (300,000 pauses of 50 ns). A thread that spins keeps the core from the
partner it waits for, or from the rest of the machine.
"""

from __future__ import annotations

import ctypes
import functools
import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from handler.kernels.primitives import called, integers

_I64, _I32 = ir.IntType(64), ir.IntType(32)
_LINE = 8
# A barrier, int64, each part in a cache line of its own: threads that have arrived, how often all have, how many sleep.
# Then what stays: the address of C's `syscall`, the number of the call, pauses before a thread sleeps.
_ARRIVED, _TURN, _SLEEPERS, _SYSCALL = 0, _LINE, 2 * _LINE, 3 * _LINE
_NUMBER, _PAUSES, _SIZE = _SYSCALL + 1, _SYSCALL + 2, 4 * _LINE
# 50 us of pauses: more than threads with equal shares differ, far less than a slice of a busy core. Fewer cost a quiet
# machine two system calls at barriers where one thread is a little late.
_MOST_PAUSES = 1000
# Linux's futex(2): its number by machine, and its operations on memory of one process.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0)
_WAIT, _WAKE = 128, 129
_PAUSE = {"x86_64": ("llvm.x86.sse2.pause", ()), "aarch64": ("llvm.aarch64.hint", (1,))}.get(platform.machine())


def new_barrier() -> NDArray[np.int64]:
    """A barrier for `wait_for_all`, int64. Where futex(2) is unknown, threads spin for ever."""
    barrier = np.zeros(_SIZE, np.int64)
    barrier[_SYSCALL], barrier[_NUMBER] = _syscall(), _FUTEX
    barrier[_PAUSES] = _MOST_PAUSES if _FUTEX else np.iinfo(np.int64).max
    return barrier


def _syscall() -> int:
    return ctypes.cast(ctypes.CDLL(None).syscall, ctypes.c_void_p).value or 0 if _FUTEX else 0


@functools.cache
def shared_barrier() -> NDArray[np.int64]:
    """The barrier of all kernels: only one engine thread calls them."""
    return new_barrier()


@intrinsic
def _add(_context, pointer, index, number):  # pragma: no cover
    """Atomically add to the number at `index`; returns the old one."""

    def generate(_context, builder, _signature, arguments):
        return builder.atomic_rmw("add", builder.gep(arguments[0], [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(pointer, types.int64, types.int64), generate


@intrinsic
def _read(_context, pointer, index):  # pragma: no cover
    """The number at `index`; nothing after it is read before it."""

    def generate(_context, builder, _signature, arguments):
        return builder.load_atomic(builder.gep(arguments[0], [arguments[1]]), "seq_cst", 8)

    return types.int64(pointer, types.int64), generate


@intrinsic
def _pause(_context):  # pragma: no cover
    """Tell the processor that this thread spins."""

    def generate(context, builder, _signature, _arguments):
        if _PAUSE is not None:
            name, given = _PAUSE
            kind = ir.FunctionType(ir.VoidType(), [_I32] * len(given))
            pause = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(pause, [ir.Constant(_I32, one) for one in given])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _futex(_context, function, number, word, operation, value):  # pragma: no cover
    """`syscall(number, word, operation, value, NULL)`; `function` is its address."""

    def generate(context, builder, _signature, arguments):
        kind = ir.FunctionType(_I64, [_I64] * 5).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [*arguments[1:], ir.Constant(_I64, 0)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@called
def wait_for_all(barrier, size):  # pragma: no cover
    """Wait until `size` threads are here; `barrier` is the address of one from `new_barrier`."""
    state = integers(barrier)
    turn = _read(state, _TURN)
    if _add(state, _ARRIVED, 1) + 1 == size:
        state[_ARRIVED] = 0
        _add(state, _TURN, 1)
        if _read(state, _SLEEPERS) > 0:
            _futex(state[_SYSCALL], state[_NUMBER], barrier + 8 * _TURN, _WAKE, 1 << 30)
        return
    for _ in range(state[_PAUSES]):
        if _read(state, _TURN) != turn:
            return
        _pause()
    _add(state, _SLEEPERS, 1)
    while _read(state, _TURN) == turn:
        # The kernel compares the lower half again: no wake-up is missed. Those without a reason are checked here.
        _futex(state[_SYSCALL], state[_NUMBER], barrier + 8 * _TURN, _WAIT, turn & 0xFFFFFFFF)
    _add(state, _SLEEPERS, -1)
