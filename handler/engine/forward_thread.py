"""The thread that runs forward passes: the caller's, until a oneDNN bug makes it useless and another replaces it.

If memory runs out while oneDNN (3.12) compiles a kernel, that thread can never compile again: its old kernels still
run, but every new shape fails, however much memory is free. Other threads are not affected. See
docs/decisions/0044-a-spoiled-thread-is-replaced.md.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
# A stack, an arena and torch's per-thread data. Python waits for ever for a thread that dies while it starts.
_THREAD_BYTES = 128 << 20


def is_compile_failure(exc: BaseException) -> bool:
    """True if oneDNN failed to compile a kernel, after which the thread can compile no other."""
    return isinstance(exc, RuntimeError) and str(exc) == "could not create a primitive"


class ForwardThread:
    """Calls functions in the caller's thread or, after `replace_soon`, in a thread of its own."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._replace_due = False

    def call(self, function: Callable[[], _T]) -> _T:
        """Return or raise what `function` does. torch's threads and GPU are those of the caller's thread."""
        if self._replace_due and _thread_fits():
            self._replace()
        if self._executor is None:
            return function()
        return self._executor.submit(_on_threads, torch.get_num_threads(), function).result()

    def replace_soon(self) -> None:
        """Replace the thread at the first call that finds enough memory; until then the old one goes on."""
        self._replace_due = True

    def _replace(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._executor = ThreadPoolExecutor(1, "forward", _as_here, (_current_gpu(),))
        self._replace_due = False
        logger.info("forward passes move to a new thread: oneDNN can compile no more kernels in the old one")


def _current_gpu() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _as_here(gpu: int | None) -> None:
    """The GPU is a setting of a thread. A new one would be on GPU 0."""
    if gpu is not None:
        torch.cuda.set_device(gpu)


def _on_threads(num_threads: int, function: Callable[[], _T]) -> _T:
    """The number of threads is a setting of a thread too, and changes from step to step."""
    torch.set_num_threads(num_threads)
    return function()


def _thread_fits() -> bool:
    try:
        mmap.mmap(-1, _THREAD_BYTES).close()
    except OSError:
        return False
    return True
