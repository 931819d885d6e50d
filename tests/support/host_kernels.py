"""`layer.cu` compiled for this machine's processor by g++, with `cuda_on_host.cpp` in CUDA's place."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import torch

from handler.kernels.cuda import layer_kernels
from tests.support.pretend_cuda.references import Memory

_HERE = Path(__file__).parent
_SOURCE = Path(layer_kernels.__file__).with_name("layer.cu")


class HostKernels:
    """`execute` of `PretendDriver`: the real source, thread by thread, on the memory that the pointers name."""

    def __init__(self, directory: Path, dtype: torch.dtype, backwards: bool = False) -> None:
        """Compiled in `directory`; `backwards` runs the threads of a block in falling order."""
        library = directory / f"{dtype}.so"
        if not library.exists():
            defines = [f"-D{name}" for name in layer_kernels.DEFINES[dtype]] + [f'-DSOURCE="{_SOURCE}"']
            # Without contraction, as `handler.kernels.cuda.nvrtc` asks NVRTC.
            options = ["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-shared", "-fPIC", *defines]
            command = ["g++", *options, str(_HERE / "cuda_on_host.cpp"), "-o", str(library)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        self._library, self._backwards = ctypes.CDLL(str(library)), backwards

    def __call__(self, _: Memory, name: str, grid: tuple[int, int], threads: int, values: list[Any]) -> None:
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        assert self._library.launch(name.encode(), *grid, threads, pointers, ctypes.c_bool(self._backwards)) == 0
