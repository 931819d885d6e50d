"""Progress reports for operations that take minutes, and their clock."""

from __future__ import annotations

import time
from typing import Protocol


class Progress(Protocol):
    """Receives events as they happen. The command line prints them; a library user may ignore them."""

    def step(self, text: str) -> None:
        """A step is complete."""

    def status(self, text: str) -> None:
        """The current state of a wait; replaces the previous status."""

    def warn(self, text: str) -> None:
        """The user should know this before going on."""


class Silent:
    """Ignores all events."""

    def step(self, text: str) -> None:
        pass

    def status(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class Clock:
    """Real time, in seconds; tests replace it."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
