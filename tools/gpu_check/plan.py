"""The steps in their order, each with the seconds it may take: the most telling first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

from tools.gpu_check.lines import Line
from tools.gpu_check.setting import Setting


@dataclass(frozen=True, slots=True)
class Step:
    """A step; `seconds` is what it may take at most, some two or three times what it should."""

    name: str
    seconds: float

    @property
    def function(self) -> Callable[[Setting], Iterator[Line]]:
        """The function of the step's name in the module of that name."""
        found: Callable[[Setting], Iterator[Line]] = getattr(import_module(f"{_PACKAGE}.{self.name}"), self.name)
        return found


_PACKAGE = "tools.gpu_check.steps"
STEPS = (
    Step("machine", 30),
    Step("tests", 90),
    Step("graphs", 80),
    Step("sampling", 60),
    Step("families", 60),
    Step("streams", 110),
    Step("drills", 40),
    Step("forms", 120),
    Step("memory", 60),
    Step("launches", 50),
    Step("products", 30),
    Step("crash", 60),
)


def chosen(names: str) -> tuple[Step, ...]:
    """The steps that a list of names with commas names, in their own order; all for "". Raises ValueError."""
    wanted = {name for name in names.split(",") if name}
    unknown = wanted - {step.name for step in STEPS}
    if unknown:
        known = ", ".join(step.name for step in STEPS)
        raise ValueError(f"--steps must name some of {known}. Given: {', '.join(sorted(unknown))}")
    return tuple(step for step in STEPS if step.name in wanted or not wanted)
