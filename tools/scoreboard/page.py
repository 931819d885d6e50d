"""`docs/reliability.md` from the rows and the record."""

from __future__ import annotations

from tools.scoreboard.record import ROOT, Result
from tools.scoreboard.rows import ROWS, Row

PAGE = ROOT / "docs" / "reliability.md"

_HEAD = """\
# Reliability scoreboard

Made by `make faults` from `tests/faults/`; do not edit. Each row is a promise under a fault or an attack, with the
figure to reach and the figure seen in the last run. Run some rows with `make faults ROWS="10 11"`. "Held by" names the
plain tests of `make test` that keep the row between runs; a row with neither is "not run".

| # | test | to reach | seen | | run |
|---|---|---|---|---|---|
"""


def page(results: list[Result]) -> str:
    """The whole document."""
    lines = [line for row in ROWS for line in _lines(row, [found for found in results if found.row == row.number])]
    passed = {found.row for found in results} - {found.row for found in results if not found.ok}
    summary = f"\n{len(passed)} of {len(ROWS)} rows ran and reached their figures.\n"
    return _HEAD + "\n".join(lines) + "\n" + summary + _bugs(results)


def _lines(row: Row, results: list[Result]) -> list[str]:
    held = "" if not row.tests else "<br>Held by " + ", ".join(f"`{name}`" for name in row.tests)
    head = f"| {row.number} | {row.test} | {row.reach} | "
    if not results:
        return [f"{head}not run{held} | | |"]
    first, *others = results
    lines = [f"{head}{_seen(first)}{held} | {_verdict(first)} | {_run(first)} |"]
    return lines + [f"| | | | {_seen(found)} | {_verdict(found)} | {_run(found)} |" for found in others]


def _seen(found: Result) -> str:
    wanted = "" if not found.reach else f" (to reach: {_cell(found.reach)})"
    return f"{_cell(found.scenario)}: {_cell(found.seen)}{wanted}"


def _verdict(found: Result) -> str:
    return "pass" if found.ok else "**FAIL**"


def _run(found: Result) -> str:
    return f"{found.date}, {found.cores} cores, load {found.load:g}"


def _bugs(results: list[Result]) -> str:
    told = [found for found in results if found.bug]
    if not told:
        return ""
    lines = [f"| {found.row} | {_cell(found.scenario)} | {_cell(found.bug)} |" for found in told]
    head = "\n## What was broken once to see each scenario fail\n\n| # | scenario | bug |\n|---|---|---|\n"
    return head + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
