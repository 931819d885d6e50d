"""How often a process died lately, and when it is started again: the rule of engines and of the hook process."""

from __future__ import annotations

import logging
import time
from collections import deque

logger = logging.getLogger(__name__)

_WINDOW_S = 600.0
_MAX_CRASHES = 3
_BACKOFF_S = (0.0, 2.0, 10.0)


class Crashes:
    """The deaths of one process within ten minutes."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def add(self, name: str, detail: str) -> float | None:
        """Record and log a death, described by `detail`.

        Returns when to start again, on the monotonic clock; None after the third death: give up.
        """
        now = time.monotonic()
        self._at.append(now)
        while self._at[0] < now - _WINDOW_S:
            self._at.popleft()
        logger.error("%s (crash %d of %d in 10 minutes)", detail, len(self._at), _MAX_CRASHES)
        if len(self._at) >= _MAX_CRASHES:
            logger.error("giving up: %s crashed %d times in 10 minutes", name, len(self._at))
            return None
        return now + _BACKOFF_S[len(self._at) - 1]
