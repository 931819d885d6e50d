"""When a refused client should retry: the waiting tokens at the speed of the last seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from container.errors import MAX_RETRY_AFTER_S

_MIN_S = 1
_WINDOW_S = 2.0


class QueueTime:
    """The engines' speed. Call `observe` at least every few seconds."""

    def __init__(self, total: Callable[[str], int]) -> None:
        """`total` sums one number of the status board over all engines."""
        self._total = total
        self._since_s = time.monotonic()
        self._tokens = self._done()
        self._tokens_per_s = 0.0

    def _done(self) -> int:
        return self._total("prompt_tokens") + self._total("generated_tokens")

    def observe(self) -> None:
        """Measure the speed once every `_WINDOW_S` seconds; calls in between do nothing."""
        now = time.monotonic()
        passed_s = now - self._since_s
        if passed_s < _WINDOW_S:
            return
        done = self._done()
        self._tokens_per_s = max(0, done - self._tokens) / passed_s
        self._since_s, self._tokens = now, done

    @property
    def retry_after_s(self) -> int:
        """Whole seconds, 1 to MAX_RETRY_AFTER_S."""
        if self._tokens_per_s <= 0:
            return _MIN_S
        return min(MAX_RETRY_AFTER_S, max(_MIN_S, math.ceil(self._total("waiting_tokens") / self._tokens_per_s)))
