"""What the user is told while something takes minutes, and the clock it is timed by."""

from __future__ import annotations

import time
from typing import Protocol


class Progress(Protocol):
    """Receives events as they happen; the command line shows them, a library user may keep or drop them."""

    def step(self, text: str) -> None:
        """Something was done that stays done."""

    def status(self, text: str) -> None:
        """How the thing being waited for looks now; replaces the status before."""

    def warn(self, text: str) -> None:
        """Something the user should know before going on."""


class Silent:
    """Drops everything."""

    def step(self, text: str) -> None:
        pass

    def status(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class Clock:
    """Real time; tests pass one that does not wait."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
