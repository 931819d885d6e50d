"""A step of the GPU check that hangs, crashes or raises ends nothing but itself; lines are judged and counted."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.gpu_check.expected import Range
from tools.gpu_check.isolation import run_isolated
from tools.gpu_check.lines import Line, Lines, check, fact
from tools.gpu_check.plan import STEPS, chosen
from tools.gpu_check.steps import tests

ROOT = Path(__file__).resolve().parents[2]


def good() -> Iterator[Line]:
    yield fact("one", 1, "ms", rows=8)
    os.write(1, b"printed\n")
    yield check("two", 2, 2)


def raising() -> Iterator[Line]:
    yield fact("one", 1)
    raise ValueError("no good")


def crashing() -> Iterator[Line]:
    yield fact("one", 1)
    os.kill(os.getpid(), signal.SIGKILL)


def hanging() -> Iterator[Line]:
    yield fact("one", 1)
    if not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)


def test_nothing_of_a_late_step_is_left(tmp_path: Path) -> None:
    """Its own children too: the pipe ends once nobody holds it open."""
    reader, writer = os.pipe()
    run_isolated(hanging, 1, lambda _: None, tmp_path / "log")
    os.close(writer)
    assert select.select([reader], [], [], 60)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize(
    ("step", "limit_s", "whats", "reason"),
    [
        (good, 60, ["one", "two"], None),
        (raising, 60, ["one", "failed"], None),
        (crashing, 60, ["one"], "the process ended with -9"),
        (hanging, 2, ["one"], "killed after its limit of 2 s"),
    ],
)
def test_a_step_ends_itself_alone(
    step: Callable[[], Iterator[Line]], limit_s: float, whats: list[str], reason: str | None, tmp_path: Path
) -> None:
    taken: list[dict[str, Any]] = []
    found = run_isolated(step, limit_s, taken.append, tmp_path / "log")
    assert ([line["what"] for line in taken], found) == (whats, reason)
    if step is raising:
        assert taken[-1]["ok"] is False
        assert taken[-1]["value"] == "ValueError: no good"
    if step is good:
        assert taken[0] == {"what": "one", "value": 1, "unit": "ms", "ok": None, "rows": 8}
        assert "printed" in (tmp_path / "log").read_text()


def test_lines_are_written_at_once_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(tmp_path)
    lines.add("a", check("right", 1, 1).as_dict())
    assert json.loads((tmp_path / "gpu_check.jsonl").read_text())["expected"] == 1
    lines.add("a", check("wrong", 1, 2).as_dict())
    lines.add("b", fact("unjudged", None).as_dict())
    lines.finish()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["right"], last["not_judged"], last["wrong"]) == (1, 1, ["a: wrong"])


@pytest.mark.parametrize(("value", "time_holds", "rate_holds"), [(0.5, True, False), (2, True, True), (4, False, True)])
def test_only_the_bad_side_of_a_range_is_judged(value: float, time_holds: bool, rate_holds: bool) -> None:
    assert Range(1, 3).holds(value) is time_holds
    assert Range(1, 3, more_is_better=True).holds(value) is rate_holds


def test_the_page_lists_every_step_in_order() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text().partition("## Check a GPU")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [step.name for step in STEPS]


def test_steps_are_chosen_by_name() -> None:
    assert chosen("") == STEPS
    assert [step.name for step in chosen("graphs,machine")] == ["machine", "graphs"]
    with pytest.raises(ValueError, match="nothing"):
        chosen("nothing")
    # Useful after four minutes: what says most stands first, and its limits leave room.
    assert sum(step.seconds for step in STEPS[:4]) <= 270


def test_every_test_for_a_gpu_is_run_and_named_on_the_page() -> None:
    found = {
        path
        for path in (ROOT / "tests" / "engine").glob("test_*.py")
        if "pytestmark = [pytest.mark.gpu," in path.read_text()
    }
    assert {*map(Path, tests.FILES)} == found
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert f"| `tests` | {', '.join(f'`tests/engine/{Path(file).name}`' for file in tests.FILES)} |" in page
