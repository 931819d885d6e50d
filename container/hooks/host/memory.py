"""Keeps a hook's memory from being everybody's: its own limit, and the first place when the machine runs out."""

from __future__ import annotations

import contextlib
import resource
import threading
from pathlib import Path

_BYTES_PER_MB = 1_000_000
_FIRST_TO_GO = "1000"
# The address space of a thread's stack counts as data; the system's default of 8 MB would use the limit up.
_STACK_BYTES = 1_048_576


def limit_memory(max_mb: int) -> None:
    """Limit this process and its children to `max_mb` MB of data; 0 for no limit of its own.

    Beyond it an allocation raises MemoryError in the call that made it. Without a limit the machine, or the container's
    cgroup, runs out of memory, and the kernel then ends this process before the engine and the web workers.
    """
    with contextlib.suppress(OSError):  # a kernel without the file, or one that forbids it
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    if max_mb:
        threading.stack_size(_STACK_BYTES)
        # Private writable memory. Not the address space: reserved addresses, as CUDA's, cost nothing.
        resource.setrlimit(resource.RLIMIT_DATA, (max_mb * _BYTES_PER_MB, max_mb * _BYTES_PER_MB))
