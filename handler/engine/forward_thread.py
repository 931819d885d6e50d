"""The thread that forward passes run in: the caller's, until oneDNN can compile nothing in it any more.

Where memory runs out while oneDNN (3.12) compiles a kernel, its assembler notes the error in a variable of the thread
and never clears it: from then on the thread runs the kernels it has, and fails at each new shape, whatever memory there
is. Another thread can.
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
# A stack, an arena and what torch wants for a thread. Python waits for ever for a thread that dies of their lack.
_ROOM_BYTES = 128 << 20


def is_spoiling(exc: BaseException) -> bool:
    """True if oneDNN failed to compile a kernel, which spoils the thread for it."""
    return isinstance(exc, RuntimeError) and str(exc) == "could not create a primitive"


class ForwardThread:
    """Calls functions in the caller's thread, or in one of its own once that was said to be spoiled."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._spoiled = False

    def call(self, function: Callable[[], _T]) -> _T:
        """What `function` returns or raises. torch has as many threads in it as in the caller's."""
        if self._spoiled and _has_room():
            self._replace()
        if self._executor is None:
            return function()
        return self._executor.submit(function).result()

    def spoil(self) -> None:
        """The thread of the last call can compile nothing: there is to be another as soon as there is memory for it.

        Until then the old one goes on with the kernels it has.
        """
        self._spoiled = True

    def _replace(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._executor = ThreadPoolExecutor(1, "forward", torch.set_num_threads, (torch.get_num_threads(),))
        self._spoiled = False
        logger.info("forward passes go on in another thread: the last one can compile no more kernels")


def _has_room() -> bool:
    try:
        mmap.mmap(-1, _ROOM_BYTES).close()
    except OSError:
        return False
    return True
