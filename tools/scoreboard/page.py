"""`docs/reliability.md` from the rows and the record."""

from __future__ import annotations

from tools.scoreboard.record import ROOT, Result
from tools.scoreboard.rows import ROWS, Row

PAGE = ROOT / "docs" / "reliability.md"

# Rows by subject, first to last; together all rows.
SUBJECTS = (
    (1, 6, "hostile clients, bodies and connections"),
    (7, 8, "health checks under load and at start"),
    (9, 17, "processes that die or hang, poisoned requests, shutdown"),
    (18, 20, "overload, disconnects, deadlines"),
    (21, 31, "answers that do not depend on neighbours; tenants; control tokens"),
    (32, 34, "memory over time, and out of memory"),
    (35, 40, "failures to start, model files, message frames, surroundings, API key, cost of a connection"),
    (41, 41, "a user's code"),
)

_HEAD = """\
# Reliability scoreboard

Written by `make faults` from `tests/faults/`; do not edit. A row is one promise under a fault or an attack.

"""
_NOTES = """
Scenarios run a tiny random model or the bundled one. Trust a time only if the load was at most the number of cores. Run
some rows with `make faults ROWS="10 11"`.

## Every row

Each row has the figure to reach and the figure seen in the last run. "Held by" names the tests of `make test` that
check the row between runs; a row with neither is "not run".

| # | test | to reach | seen | | run |
|---|---|---|---|---|---|
"""


def page(results: list[Result]) -> str:
    """The whole document."""
    lines = [line for row in ROWS for line in _lines(row, [found for found in results if found.row == row.number])]
    return _HEAD + _summary(results) + _NOTES + "\n".join(lines) + "\n" + _bugs(results)


def _summary(results: list[Result]) -> str:
    """What a reader of two minutes wants: when, where, and how many rows of each subject passed."""
    passed = {found.row for found in results} - {found.row for found in results if not found.ok}
    dates = sorted({found.date for found in results}) or ["-"]
    cores = ", ".join(str(number) for number in sorted({found.cores for found in results}))
    busy = sum(found.load > found.cores for found in results)
    lines = [
        "| rows | subject | passed |",
        "|---|---|---|",
        *(
            f"| {_range(first, last)} | {subject} | {len(passed & set(range(first, last + 1)))} of {last - first + 1} |"
            for first, last, subject in SUBJECTS
        ),
        f"| **all** | {len(results)} scenarios, {dates[0]} to {dates[-1]}, machine of {cores} cores without a GPU; "
        f"load above the cores in {busy} | **{len(passed)} of {len(ROWS)}** |",
    ]
    return "\n".join(lines) + "\n"


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


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
    proven = [found for found in results if found.bug]
    if not proven:
        return ""
    lines = [f"| {found.row} | {_cell(found.scenario)} | {_cell(found.bug)} |" for found in proven]
    head = "\n## The bug that made each scenario fail once\n\n| # | scenario | bug |\n|---|---|---|\n"
    return head + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
