"""A `Progress` that keeps its events."""

from __future__ import annotations

from dataclasses import dataclass, field


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
