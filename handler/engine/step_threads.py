"""The threads of each step: as many as the process may use, and of these as many as pay."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from handler.engine.thread_choice import ThreadChoice

logger = logging.getLogger(__name__)

# Seconds between looks at the limit: Kubernetes changes it while a container runs.
_LOOK_S = 2.0


class StepThreads:
    """Sets torch's number of threads, which our kernels use too, before each step."""

    def __init__(self, limit: Callable[[], int], *, chooses: bool) -> None:
        """`limit()` is the most threads to use now. If not `chooses`, each step uses so many: its numbers may depend
        on how many there are.
        """
        self._limit = limit
        self._chooses = chooses
        self._choice = ThreadChoice(limit())
        self._look_due_s = time.monotonic() + _LOOK_S
        torch.set_num_threads(self._choice.most)

    @property
    def most(self) -> int:
        """The most threads a step may use."""
        return self._choice.most

    def keep(self) -> None:
        """Leave the most threads as they are from now on, whatever the limit becomes."""
        self._look_due_s = math.inf

    @contextmanager
    def used(self, num_tokens: int) -> Iterator[None]:
        """Run the block, a step of `num_tokens` tokens, with its threads. Call it in the thread that computes."""
        started_s = time.monotonic()
        if started_s >= self._look_due_s:
            self._look(started_s)
        number = self._choice.choose(num_tokens) if self._chooses else self._choice.most
        if number != torch.get_num_threads():
            torch.set_num_threads(number)
        yield
        self._choice.observe(num_tokens, time.monotonic() - started_s)

    def _look(self, now_s: float) -> None:
        self._look_due_s = now_s + _LOOK_S
        most = self._limit()
        if most != self._choice.most:
            logger.info("the engine may now use %d threads instead of %d", most, self._choice.most)
            self._choice = ThreadChoice(most)  # what was learned holds for the old number
