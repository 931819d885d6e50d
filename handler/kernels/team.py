"""Run kernels on torch's own OpenMP threads: a second pool would compete with the first, whose threads spin."""

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
    """The OpenMP library that torch has loaded; without one (None), kernels run on one thread."""
    root = Path(torch.__file__).parent
    for found in (*root.glob("lib/libgomp*.so*"), *root.parent.glob("torch.libs/libgomp*.so*")):
        library = ctypes.CDLL(str(found))
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        return library
    return None


def num_threads() -> int:
    """Number of threads that `Call.run` uses."""
    return torch.get_num_threads() if _openmp() is not None else 1


def _address(function: str) -> int:
    """Address of an OpenMP function; 0 without OpenMP."""
    library = _openmp()
    return 0 if library is None else ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0


@functools.cache
def team_functions() -> tuple[int, int]:
    """Addresses of the C functions for `THREAD_NUMBER` and `TEAM_SIZE`; 0 without OpenMP."""
    return _address("omp_get_thread_num"), _address("omp_get_num_threads")


def float_bits(number: float) -> int:
    """`number` as an argument of a kernel, which reads it with `primitives.float_argument`."""
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def scratch(width: int) -> Tensor:
    """Float32 `[num_threads(), width]` or larger. All kernels share it: only one engine thread calls them."""
    found, threads = _SCRATCH.buffer, num_threads()
    if found.shape[0] < threads or found.shape[1] < width:
        found = _SCRATCH.buffer = torch.empty(threads, max(width, _MIN_SCRATCH, found.shape[1]))
    return found


class _Scratch:
    buffer = torch.empty(0, 0)


_SCRATCH = _Scratch()
_MIN_SCRATCH = 1 << 12


@functools.cache
def _packer(count: int) -> Callable[..., None]:
    return struct.Struct(f"={count}q").pack_into


# The first arguments of every kernel: ticket counter, `team_functions` (0: one thread runs alone), number of rows,
# address of scratch, bytes of a thread's scratch, address of tile shapes.
TICKET, THREAD_NUMBER, TEAM_SIZE, NUM_ROWS, SCRATCH, SCRATCH_STRIDE, TILES = range(7)
NUM_COMMON = 7


class Call:
    """A kernel and its `arguments`, int64 `[num_arguments]`."""

    def __init__(self, kernel: int, num_arguments: int) -> None:
        """`kernel` is the address of a C function, from `compile_kernel`."""
        self.arguments = np.zeros(num_arguments, np.int64)
        self.kernel = kernel
        self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
        self._address = self.arguments.ctypes.data

    def set(self, *values: int) -> None:
        """Write the first arguments, ten times as fast as by slices of the array."""
        _packer(len(values))(self.arguments, 0, *values)

    def run(self, parallel: bool = True) -> None:
        """Run on all threads, each of which enters the kernel once, or on the calling one only."""
        library = _openmp() if parallel else None
        if library is None:
            self._function(self._address)
        else:
            library.GOMP_parallel(self.kernel, self._address, torch.get_num_threads(), 0)
