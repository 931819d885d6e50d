"""What the user is told while something takes minutes, and the clock it is timed by."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
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


@dataclass
class Transcript:
    """Keeps everything, in order, as (kind, text)."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def step(self, text: str) -> None:
        self.events.append(("step", text))

    def status(self, text: str) -> None:
        self.events.append(("status", text))

    def warn(self, text: str) -> None:
        self.events.append(("warn", text))


class Clock:
    """Real time; tests pass one that does not wait."""

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
