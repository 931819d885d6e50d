"""The last result of each scenario, in `docs/reliability.json`: one line each, so that branches merge."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "reliability.json"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of one scenario. `bug` is a deliberate defect with which the scenario was seen to fail.

    `load` is the machine's load average (1 minute) at the end; above `cores`, other processes shared the machine.
    """

    row: int
    scenario: str
    reach: str
    seen: str
    ok: bool
    date: str
    cores: int
    load: float
    bug: str = ""


def result(row: int, scenario: str, reach: str, seen: str, ok: bool, bug: str = "") -> Result:
    """A result with today's date, this machine's cores and its load."""
    return Result(
        row=row,
        scenario=scenario,
        reach=reach,
        seen=seen,
        ok=ok,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        cores=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 1),
        bug=bug,
    )


def read(path: Path = RECORD) -> list[Result]:
    """All results, ordered by row and scenario; empty if there is no record yet."""
    if not path.exists():
        return []
    return msgspec.json.decode(path.read_bytes(), type=list[Result])


def write(new: list[Result], path: Path = RECORD) -> list[Result]:
    """Replace all results of the rows in `new`. Returns all results."""
    rows = {found.row for found in new}
    kept = [found for found in read(path) if found.row not in rows]
    results = sorted(kept + new, key=lambda found: (found.row, found.scenario))
    lines = [json.dumps(msgspec.to_builtins(found), ensure_ascii=False) for found in results]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    return results
