"""`Setting`: what every step is given, and how it judges speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.gpu_check.expected import Range
from tools.gpu_check.lines import Line


@dataclass(frozen=True, slots=True)
class Setting:
    """`tiny` shrinks every shape, for the tests; speeds are judged on the GPU they were worked out for only.

    `is_shimmed`: attention copies its pages first (tools/gpu_check/varlen_shim.py), which takes time of its own.
    """

    scratch: Path
    tiny: bool = False
    is_shimmed: bool = False

    @property
    def judges_speed(self) -> bool:
        """Whether this is the GPU that the expected numbers are for."""
        import torch

        return not self.tiny and "H200" in torch.cuda.get_device_name()

    def pick(self, usual: int, tiny: int) -> int:
        """A size."""
        return tiny if self.tiny else usual

    def speed(self, what: str, value: float, unit: str, expected: Range | None = None, **details: Any) -> Line:
        """A measured speed, time or amount."""
        ok = expected.holds(value) if expected is not None and self.judges_speed else None
        shown = None if expected is None else expected.shown
        return Line(what, round(value, 4), unit, shown, ok, details)

    def seconds_of(self, action: Callable[[], object], repeats: int = 1) -> float:
        """Mean seconds of `action` on the device, launches overlapping; one run before warms up if repeated."""
        import torch

        if repeats > 1:
            action()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            action()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / repeats
