"""NVRTC, the compiler library that comes with torch's CUDA wheels: source to machine code, without a toolkit.

Machine code, never PTX: a driver older than the compiler refuses PTX, and SageMaker's drivers are older than CUDA 12.6.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A sum and a product that round apart must not become one operation that rounds once.
_OPTIONS = ("--std=c++17", "-fmad=false")


class CompileError(RuntimeError):
    """NVRTC is absent, does not know the architecture, or refuses the source."""


def compile_cubin(library: Any, source: str, capability: tuple[int, int], defines: Sequence[str] = ()) -> bytes:
    """Machine code (an ELF file) of `source` for one compute capability. `library` is `open_nvrtc()`.

    Needs no GPU. Raises CompileError with the compiler's log.
    """
    major, minor = capability
    options = [f"--gpu-architecture=sm_{major}{minor}", *_OPTIONS, *(f"-D{name}" for name in defines)]
    array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"heir.cu", 0, None, None))
    try:
        if library.nvrtcCompileProgram(program, len(options), array):
            raise CompileError(_text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).decode())
        return _text(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def open_nvrtc(cuda: str | None) -> Any:
    """The library of torch's CUDA version (`torch.version.cuda`; None: any). Raises CompileError if there is none."""
    major = (cuda or "").partition(".")[0]
    name = f"libnvrtc.so.{major or '*'}"
    for path in [*_installed(name), *([Path(name)] if major else [])]:
        try:
            library = _open(path)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise CompileError(f"{name} is not installed")


def _open(path: Path) -> Any:
    """Raises OSError. NVRTC finds its builtins by name only, which CUDA 13's wheel needs to have loaded before."""
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))


def _installed(name: str) -> list[Path]:
    """NVRTC of NVIDIA's wheels: `nvidia/cuda_nvrtc/lib` for CUDA 12, `nvidia/cu13/lib` for 13."""
    return [path for entry in sys.path for path in sorted(Path(entry).glob(f"nvidia/*/lib/{name}"))]


def _text(size_of: Any, read: Any, program: ctypes.c_void_p) -> bytes:
    """What NVRTC hands out in two calls: its size, then its bytes."""
    size = ctypes.c_size_t()
    if size_of(program, ctypes.byref(size)):
        raise CompileError("NVRTC gives no result")
    buffer = ctypes.create_string_buffer(size.value)
    if read(program, buffer):
        raise CompileError("NVRTC gives no result")
    return buffer.raw


def _check(library: Any, status: int) -> None:
    if status:
        raise CompileError(f"NVRTC: {library.nvrtcGetErrorString(status).decode()}")
