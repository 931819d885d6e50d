"""Kernels run on torch's own OpenMP threads: a second pool would fight with the first, whose threads spin."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@functools.cache
def _openmp() -> Any | None:
    """The OpenMP library that torch has loaded, or None: then kernels run on one thread."""
    root = Path(torch.__file__).parent
    for found in (*root.glob("lib/libgomp*.so*"), *root.parent.glob("torch.libs/libgomp*.so*")):
        library = ctypes.CDLL(str(found))
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        return library
    return None


def num_threads() -> int:
    """How many threads `Call.run` uses."""
    return torch.get_num_threads() if _openmp() is not None else 1


def _address(function: str) -> int:
    """Of one of OpenMP's functions; 0 if there is one thread."""
    library = _openmp()
    return 0 if library is None else ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0


def barrier_address() -> int:
    """Address of the C function at which the threads of a team wait for each other; 0 if there is one thread."""
    return _address("GOMP_barrier")


@functools.cache
def team_functions() -> tuple[int, int]:
    """Addresses of C functions for `THREAD_NUMBER` and `TEAM_SIZE`; 0 if there is one thread."""
    return _address("omp_get_thread_num"), _address("omp_get_num_threads")


def float_bits(number: float) -> int:
    """`number` as an argument of a kernel, which reads it by `memory.float_argument`."""
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def scratch(width: int) -> Tensor:
    """Float32 `[num_threads(), width]` or more, the same for all kernels: one thread of the engine calls them."""
    found, threads = _SCRATCH.held, num_threads()
    if found.shape[0] < threads or found.shape[1] < width:
        found = _SCRATCH.held = torch.empty(threads, max(width, _LEAST_SCRATCH, found.shape[1]))
    return found


class _Scratch:
    held = torch.empty(0, 0)


_SCRATCH = _Scratch()
_LEAST_SCRATCH = 1 << 12


@functools.cache
def _packer(count: int) -> Callable[..., None]:
    return struct.Struct(f"={count}q").pack_into


# What every kernel's arguments begin with: a ticket, the functions that say which thread of how many runs it (0: it is
# alone), rows of this call, a thread's scratch, shapes of tiles.
TICKET, THREAD_NUMBER, TEAM_SIZE, NUM_ROWS, SCRATCH, SCRATCH_STRIDE, TILES = range(7)
NUM_COMMON = 7


class Call:
    """A kernel and its block of arguments, `arguments` int64 `[num_arguments]`."""

    def __init__(self, kernel: int, num_arguments: int) -> None:
        """`kernel` is the address of a C function, from `compile_kernel`."""
        self.arguments = np.zeros(num_arguments, np.int64)
        self.kernel = kernel
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
        self._address = self.arguments.ctypes.data

    def set(self, *values: int) -> None:
        """Write the first arguments: ten times as quick as by slices of the array."""
        _packer(len(values))(self.arguments, 0, *values)

    def run(self, parallel: bool = True) -> None:
        """Run on all threads, each of which enters the kernel once, or on this one."""
        library = _openmp() if parallel else None
        if library is None:
            self._function(self._address)
        else:
            library.GOMP_parallel(self.kernel, self._address, torch.get_num_threads(), 0)
