"""Small arithmetic of measurements."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of `values` lie; the nearest one, not a mean of two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds it took, and what it returned."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


class Sampler:
    """Calls `look` each `every_s` in a thread, while in its context: (seconds it took, what it returned)."""

    def __init__(self, look: Callable[[], Any], every_s: float) -> None:
        self.seen: list[tuple[float, Any]] = []
        self._look = look
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.seen.append(timed(self._look))

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def seconds(self) -> list[float]:
        return [seconds for seconds, _ in self.seen]

    @property
    def found(self) -> list[Any]:
        return [found for _, found in self.seen]
