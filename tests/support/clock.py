"""Time that passes when a test says so."""

from __future__ import annotations


class Clock:
    """Stands for `time` in a module under test."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now
