"""CUDA's driver: loads machine code and launches its kernels on torch's current stream."""

from __future__ import annotations

import ctypes
from typing import Any

import torch


class DriverError(RuntimeError):
    """The driver is absent or refuses a call."""


class Kernel:
    """One kernel of a module that is loaded on the current device."""

    def __init__(self, library: Any, function: ctypes.c_void_p, types: tuple[Any, ...]) -> None:
        """`types` are the ctypes of its parameters, in order."""
        self._library, self._function = library, function
        # Fixed members: what ctypes lays out on each call would cost more than the launch.
        self._values = type("Values", (ctypes.Structure,), {"_fields_": [(f"_{i}", t) for i, t in enumerate(types)]})
        self._offsets = [getattr(self._values, f"_{i}").offset for i in range(len(types))]
        self._pointers = ctypes.c_void_p * len(types)

    def launch(self, grid: tuple[int, int], num_threads: int, *values: object) -> None:
        """Run on `grid` blocks of `num_threads`; pointers are `data_ptr()` or None. The driver copies the values.

        Never waits; a graph that is being captured takes it up. Raises DriverError.
        """
        held = self._values(*values)
        start = ctypes.addressof(held)
        pointers = self._pointers(*(start + offset for offset in self._offsets))
        stream = torch.cuda.current_stream().cuda_stream
        status = self._library.cuLaunchKernel(
            *(self._function, *grid, 1, num_threads, 1, 1, 0, ctypes.c_void_p(stream), pointers, None)
        )
        _check(self._library, status)


class Module:
    """Machine code on the current device, for as long as the process lives."""

    def __init__(self, library: Any, cubin: bytes) -> None:
        """Load `cubin`. `library` is `open_driver()`. Raises DriverError, for one if it is not for this GPU."""
        # torch makes its context current to the thread with the first call that needs one.
        torch.cuda.synchronize()
        self._library, self._module = library, ctypes.c_void_p()
        _check(library, library.cuModuleLoadData(ctypes.byref(self._module), cubin))

    def kernel(self, name: str, types: tuple[Any, ...]) -> Kernel:
        """The kernel of that name. Raises DriverError if there is none."""
        function = ctypes.c_void_p()
        _check(self._library, self._library.cuModuleGetFunction(ctypes.byref(function), self._module, name.encode()))
        return Kernel(self._library, function, types)


def open_driver() -> Any:
    """The driver that the host lends. Raises DriverError if there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as exc:
        raise DriverError(f"no CUDA driver: {exc}") from exc


def _check(library: Any, status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        raise DriverError(f"CUDA error {status}: {(text.value or b'unknown').decode()}")
