"""CUDA's driver and NVRTC as far as own kernels need them: machine code for the right GPU, launches on real memory.

What `cuLaunchKernel` gets is read as the kernel's source declares it, and a reference in torch computes on the memory
that the pointers name, which must lie in living tensors of the device.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tests.support.pretend_cuda import references
from tests.support.pretend_cuda.dispatch import Dispatcher
from tests.support.pretend_cuda.graphs import Recorded, graph
from tests.support.pretend_cuda.references import Memory

NO_BINARY_FOR_GPU, NOT_FOUND, INVALID_VALUE, ILLEGAL_ADDRESS = 209, 500, 1, 700
_C_TYPES = {"int": ctypes.c_int, "float": ctypes.c_float, "offset": ctypes.c_longlong}


def signatures(source: str) -> dict[str, list[Any]]:
    """The ctypes of each kernel's parameters, from its declaration."""
    found = {}
    for name, parameters in re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', source):
        words = [parameter.split() for parameter in parameters.split(",")]
        found[name] = [ctypes.c_void_p if "*" in " ".join(each) else _C_TYPES[each[-2]] for each in words]
    return found


class PretendNvrtc:
    """NVRTC that writes down what it was asked for."""

    def __init__(self) -> None:
        self._cubins: dict[int, bytes] = {}

    def nvrtcCreateProgram(self, program: Any, source: bytes, *_: Any) -> int:
        program._obj.value = len(self._cubins) + 1
        self._cubins[program._obj.value] = source
        return 0

    def nvrtcCompileProgram(self, program: Any, count: int, options: Any) -> int:
        given = [options[i].decode() for i in range(count)]
        arch = next(int(option.partition("sm_")[2]) for option in given if option.startswith("--gpu-architecture=sm_"))
        bfloat16 = "-DBFLOAT16" in given
        self._cubins[program.value] = b"\x7fELF" + struct.pack("<I?", arch, bfloat16) + self._cubins[program.value]
        return 0

    def nvrtcGetCUBINSize(self, program: Any, size: Any) -> int:
        size._obj.value = len(self._cubins[program.value])
        return 0

    def nvrtcGetCUBIN(self, program: Any, buffer: Any) -> int:
        buffer.raw = self._cubins[program.value]
        return 0

    def nvrtcDestroyProgram(self, _: Any) -> int:
        return 0


def by_reference(memory: Memory, name: str, grid: tuple[int, int], threads: int, values: list[Any]) -> None:
    """Runs a kernel by `references`; `values` are its arguments as ctypes."""
    references.REFERENCES[name](memory, grid, threads, *(value.value for value in values))


class PretendDriver:
    """The driver of the current pretended GPU. `execute` is what computes, given `by_reference`'s arguments."""

    def __init__(self, dispatcher: Dispatcher, execute: Callable[..., None] = by_reference) -> None:
        self._dispatcher, self._execute = dispatcher, execute
        self._modules: list[tuple[torch.dtype, dict[str, list[Any]]]] = []
        self._functions: list[tuple[torch.dtype, str, list[Any]]] = []

    def cuModuleLoadData(self, module: Any, image: bytes) -> int:
        gpu = self._dispatcher.gpus.gpu()
        arch, bfloat16 = struct.unpack_from("<I?", image, 4)
        if image[:4] != b"\x7fELF" or divmod(arch, 10) != gpu.capability:
            return NO_BINARY_FOR_GPU
        self._modules.append((torch.bfloat16 if bfloat16 else torch.float16, signatures(image[9:].decode())))
        module._obj.value = len(self._modules)
        return 0

    def cuModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        dtype, known = self._modules[module.value - 1]
        if name.decode() not in known:
            return NOT_FOUND
        self._functions.append((dtype, name.decode(), known[name.decode()]))
        function._obj.value = len(self._functions)
        return 0

    def cuLaunchKernel(
        self, function: Any, x: int, y: int, z: int, threads: int, ty: int, tz: int, _shared: int, _stream: Any,
        parameters: Any, _extra: None,
    ) -> int:  # fmt: skip
        dtype, name, types = self._functions[function.value - 1]
        if len(parameters) != len(types) or (z, ty, tz) != (1, 1, 1) or not (0 < x < 2**31 and 0 < y < 2**16):
            return INVALID_VALUE
        # Copies: the caller's arguments are gone when a graph is replayed.
        values = [kind.from_buffer_copy(kind.from_address(parameters[i])) for i, kind in enumerate(types)]

        def run() -> None:
            # No operation of torch runs on a GPU here, so no mode may see one.
            with _disable_current_modes():
                self._execute(Memory(dtype, self._dispatcher.holds), name, (x, y), threads, values)

        try:
            run()
        except references.IllegalAddress:
            return ILLEGAL_ADDRESS
        self._dispatcher.gpus.kernels[f"heir::{name}"] += 1
        if graph.active is not None:
            graph.active.operations.append(Recorded(run, (), {}, []))
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = {
            NO_BINARY_FOR_GPU: b"no kernel image is available for execution on the device",
            ILLEGAL_ADDRESS: b"an illegal memory access was encountered",
        }.get(status, b"invalid argument")
        return 0
