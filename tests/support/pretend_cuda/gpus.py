"""The pretended GPUs: capability, memory, the current device, and counts of what ran on them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType

import torch

GIB = 1 << 30
# Name -> compute capability and bytes that CUDA reports for an idle GPU of SageMaker's instance families.
GPU_KINDS: dict[str, tuple[tuple[int, int], int]] = {
    "T4": ((7, 5), int(14.6 * GIB)),
    "A10G": ((8, 6), int(22.1 * GIB)),
    "L4": ((8, 9), int(22.0 * GIB)),
    "A100": ((8, 0), int(39.4 * GIB)),
    "H100": ((9, 0), int(79.1 * GIB)),
    "H200": ((9, 0), int(139.8 * GIB)),
}


@dataclass(slots=True)
class Gpu:
    """One GPU. `allocated` and `cached` are bytes; both count as used, as in torch's caching allocator.

    `most_allocated` and `most_reserved` (with the cache) are the most since `reset_peak`.
    """

    name: str
    capability: tuple[int, int]
    total: int
    allocated: int = 0
    cached: int = 0
    most_allocated: int = 0
    most_reserved: int = 0

    def check(self, num_bytes: int) -> None:
        """Raises torch.OutOfMemoryError if memory is spent; cached blocks are given back first, as in torch."""
        if self.allocated + num_bytes > self.total:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {num_bytes / GIB:.2f} GiB. "
                f"{self.name} has {self.total / GIB:.2f} GiB, of which {self.allocated / GIB:.2f} GiB is in use."
            )

    def take(self, num_bytes: int) -> None:
        """Allocate. Raises torch.OutOfMemoryError."""
        self.check(num_bytes)
        self.cached -= min(self.cached, num_bytes)
        self.allocated += num_bytes
        self.cached = min(self.cached, self.total - self.allocated)
        self.most_allocated = max(self.most_allocated, self.allocated)
        self.most_reserved = max(self.most_reserved, self.allocated + self.cached)

    def reset_peak(self) -> None:
        """What is in use now is the most so far."""
        self.most_allocated, self.most_reserved = self.allocated, self.allocated + self.cached

    def touch(self, num_bytes: int) -> None:
        """Memory that a kernel takes while it runs."""
        self.take(num_bytes)
        self.give(num_bytes)

    def give(self, num_bytes: int) -> None:
        """Freed memory stays in the cache until `empty_cache`."""
        self.allocated -= num_bytes
        self.cached += num_bytes

    @property
    def free(self) -> int:
        """What `mem_get_info` says is free."""
        return self.total - self.allocated - self.cached


@dataclass(slots=True)
class Gpus:
    """All GPUs and what is counted. `waits` and `uploads` count by source line, `kernels` by operation.

    `contexts` are the GPUs on which the process has a CUDA context, hundreds of MB each.
    """

    all: tuple[Gpu, ...]
    current: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    replays: int = 0
    capturing: bool = False
    contexts: set[int] = field(default_factory=set)

    def reset(self) -> None:
        """Counts from nothing."""
        for counter in (self.kernels, self.waits, self.uploads):
            counter.clear()
        self.replays = 0

    def device(self, device: object = None) -> torch.device:
        """The device that torch would take for `device`; without a number, the current one."""
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(str(device or "cuda"))
        if found.type != "cuda":
            return found
        index = self.current if found.index is None else found.index
        if index >= len(self.all):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def gpu(self, device: object = None) -> Gpu:
        """The GPU of `device`; asking for its properties makes no context."""
        return self.all[self.device(device).index]

    def entered(self, device: object = None) -> Gpu:
        """The GPU of `device`, on which this process has a context from now on."""
        self.contexts.add(self.device(device).index)
        return self.gpu(device)

    def wait(self, what: str) -> None:
        """The host waits for the device. Raises RuntimeError during capture."""
        if self.capturing:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what}, {source()})")
        self.waits[f"{source()} {what}"] += 1

    def upload(self, what: str) -> None:
        """Pageable host memory is copied, which makes the host wait."""
        self.uploads[source()] += 1
        self.wait(what)


def gpus_of(kind: str, count: int = 1) -> Gpus:
    """`count` GPUs of one of `GPU_KINDS`."""
    capability, total = GPU_KINDS[kind]
    return Gpus(tuple(Gpu(kind, capability, total) for _ in range(count)))


def source() -> str:
    """File and line of the product that caused the present operation, else of whatever else did."""
    other = ""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/handler/" in path:
            return f"{path.rpartition('/')[2]}:{frame.f_lineno}"
        if not other and "/torch/" not in path and "/pretend_cuda/" not in path:
            other = f"{path.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return other
