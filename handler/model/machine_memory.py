"""Memory: how much the machine has, whether an error means that none is left, and giving back what is freed."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from handler.seam.processors import groups

_OUT_OF_MEMORY = (
    *("alloc_cpu", "bad_alloc", "allocate memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory"),
    "CUDA driver error: out of memory",
)


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that this process may still use, in bytes: the least of the machine's and its control groups'.

    `root` holds /proc and the control groups.
    """
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return max(0, min((available, *_left_in_groups(root))))


# Names of a group's limit, its use, and the files in that use which Linux drops when it needs memory; by version.
_GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _left_in_groups(root: Path) -> Iterator[int]:
    """What this process's control group and each of its ancestors have left, in bytes."""
    for version, group in groups("memory", root):
        limit_name, used_name, dropped = _GROUP_FILES[version]
        try:
            limit = (group / limit_name).read_text().strip()
            if limit != "max":
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / used_name).read_text()) - sum(int(stat.get(name, 0)) for name in dropped)
                yield int(limit) - used
        except (OSError, ValueError):
            continue


def give_back() -> None:
    """Free what only cycles hold, and hand CUDA the blocks that torch keeps of freed tensors: until then they count as
    used. Without a GPU in use the second does nothing."""
    gc.collect()
    torch.cuda.empty_cache()


def is_out_of_memory(exc: BaseException) -> bool:
    """True if memory ran out, of the machine or of a GPU. Plain RuntimeErrors are identified by their text: torch
    raises them on CPU, cuBLAS for its handle and workspace, and the CUDA runtime for a graph or a module."""
    if isinstance(exc, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(text in str(exc) for text in _OUT_OF_MEMORY)


def trim_heap() -> None:
    """Give the system back what glibc's heap keeps of freed tensors; elsewhere nothing is done.

    glibc returns large blocks at once only until some were freed; then it serves blocks of up to 32 MiB from its heap.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
