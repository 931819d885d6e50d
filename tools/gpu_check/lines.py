"""`Line`: one finding. `Lines`: where findings go, one JSON object each, at once."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """A value, what was expected of it, and whether it is right: None where it is not judged."""

    what: str
    value: Any
    unit: str = ""
    expected: Any = None
    ok: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The line's JSON object; details stand last and empty fields are left out."""
        found = {"what": self.what, "value": self.value, "unit": self.unit, "expected": self.expected, "ok": self.ok}
        kept = {name: value for name, value in found.items() if value not in ("", None) or name in {"value", "ok"}}
        return kept | self.details


def fact(what: str, value: Any, unit: str = "", **details: Any) -> Line:
    """A value that nothing judges."""
    return Line(what, value, unit, details=details)


def check(what: str, value: Any, expected: Any = True, **details: Any) -> Line:
    """A value that must be `expected`, on every device."""
    return Line(what, value, "", expected, value == expected, details)


class Lines:
    """Prints and, given a folder, writes to `gpu_check.jsonl` there; counts what is right and what is not."""

    def __init__(self, folder: Path | None) -> None:
        self._started = time.monotonic()
        self._file = None if folder is None else (folder / "gpu_check.jsonl").open("w", encoding="utf-8")
        self.wrong: list[str] = []
        self.num_right = self.num_unjudged = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def add(self, step: str, values: dict[str, Any]) -> None:
        """Write `values` as a line of `step`."""
        text = json.dumps({"t": round(self.seconds, 1), "step": step, **values}, default=str)
        for file in filter(None, (sys.stdout, self._file)):
            file.write(text + "\n")
            file.flush()
        ok = values.get("ok")
        self.num_right += ok is True
        self.num_unjudged += ok is None
        if ok is False:
            self.wrong.append(f"{step}: {values.get('what')}")

    def finish(self, **values: Any) -> None:
        """The last line: how many were right, and which were not."""
        counts = {"right": self.num_right, "not_judged": self.num_unjudged, "wrong": self.wrong}
        self.add("summary", {"what": "done", "value": round(self.seconds, 1), "unit": "s", **counts, **values})
        if self._file is not None:
            self._file.close()
