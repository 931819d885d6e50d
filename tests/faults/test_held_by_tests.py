"""Rows that the plain tests hold in full: `make faults ROWS=27` runs those and writes down what came of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Scoreboard
from tests.support.server import ROOT
from tools.scoreboard.rows import BY_NUMBER

# Row, which of its tests by name, environment, what was broken once.
HELD = [
    (
        2,
        "",
        {"SCHEMATHESIS_CASES": os.environ.get("SCHEMATHESIS_CASES", "200")},
        "container/api/tgi/token_routes.py: /tokenize leaves out `stop`, which the document requires",
    ),
    (27, "", {}, "handler/runners/slots/input.py: logits by slot, their sequences by arrival: 5 of 8 tests fail"),
    (28, "seed", {}, "handler/sampling/sampler.py: draws of one generator for all: both tests fail"),
    (
        29,
        "preemption",
        {},
        "handler/scheduling/scheduler.py: a preempted sequence begins again after its prompt: the test fails",
    ),
    (30, "", {}, "container/text/detokenizer.py: each token's bytes decoded by themselves: 22 of 43 tests fail"),
    (31, "", {}, "container/text/stop_strings.py: the beginning of a stop string is shown at once: 6 of 11 tests fail"),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("row", "names", "environ"),
    [
        pytest.param(row, names, environ, id=str(row), marks=pytest.mark.row(row, bug=bug))
        for row, names, environ, bug in HELD
    ],
)
def test_plain_tests(row: int, names: str, environ: dict[str, str], scoreboard: Scoreboard, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}"]
    began = time.monotonic()
    run = subprocess.run(
        [*command, "-k", names, *BY_NUMBER[row].tests],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=3500,
    )
    last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr[-200:]
    passed = re.search(r"(\d+) passed", last)
    counts = ", ".join(re.findall(r"\d+ (?:passed|failed|skipped|errors?)", last)) or last
    files = ", ".join(BY_NUMBER[row].tests)
    which = f" that name `{names}`" if names else "".join(f", {name}={value}" for name, value in environ.items())
    ok = run.returncode == 0 and passed is not None
    scoreboard(row, f"tests of {files}{which}", "all pass", f"{counts} in {time.monotonic() - began:.0f} s", ok)
