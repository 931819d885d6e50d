"""The harness of `make faults`: scenarios say what they saw, and the scoreboard is written from that.

A scenario is marked with its row, and with what was broken once to see it fail:

    @pytest.mark.row(10, bug="the watcher does not look at the epoch")
    def test_...(scoreboard: Scoreboard) -> None:
        scoreboard(10, "32 streams, engine killed", "all end <= 2 s", f"slowest {slowest:.2f} s", slowest <= 2)

A call with `ok=False` is recorded and fails the scenario at its end. One that ends in an exception before it said
anything is recorded as failed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.server import Server
from tools.scoreboard.page import PAGE, page
from tools.scoreboard.record import Result, result, write
from tools.scoreboard.rows import BY_NUMBER


class Scoreboard(Protocol):
    """Record one figure. `reach` may be empty where the row's own words say it all."""

    def __call__(self, row: int, scenario: str, reach: str, seen: str, ok: bool) -> None: ...


MakeServer = Callable[..., Server]
_RESULTS = pytest.StashKey[list[Result]]()
_MISSED = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", default="", help="run only these rows of the scoreboard, e.g. '10 11'")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number, bug=''): the scoreboard's row, and what was broken to see it fail")
    config.stash[_RESULTS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {int(number) for number in config.getoption("--rows").replace(",", " ").split()}
    unknown = wanted - BY_NUMBER.keys()
    if unknown:
        raise pytest.UsageError(f"--rows must be of 1 to {max(BY_NUMBER)}. Given: {sorted(unknown)}")
    items.sort(key=lambda item: (_row(item), item.nodeid))
    if wanted:
        left = [item for item in items if _row(item) not in wanted]
        items[:] = [item for item in items if _row(item) in wanted]
        config.hook.pytest_deselected(items=left)


def _row(item: pytest.Item) -> int:
    mark = item.get_closest_marker("row")
    if mark is None or mark.args[0] not in BY_NUMBER:
        raise pytest.UsageError(f"{item.nodeid} needs @pytest.mark.row with a number of the scoreboard")
    return int(mark.args[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """A scenario that broke off is recorded as failed; one that said so itself has said more than this."""
    report = yield
    if report.failed and not item.stash.get(_MISSED, []):
        text = "" if call.excinfo is None else call.excinfo.exconly().splitlines()[0][:120]
        seen = f"{report.when} ended with {text or 'an error'}"
        item.config.stash[_RESULTS].append(result(_row(item), item.name, "", seen, False, _bug(item)))
    return report


def _bug(item: pytest.Item) -> str:
    mark = item.get_closest_marker("row")
    return "" if mark is None else str(mark.kwargs.get("bug", ""))


@pytest.fixture
def scoreboard(request: pytest.FixtureRequest) -> Scoreboard:
    missed = request.node.stash[_MISSED] = []

    def record(row: int, scenario: str, reach: str, seen: str, ok: bool) -> None:
        assert row == _row(request.node), f"the scenario is marked with row {_row(request.node)}. Given: {row}"
        request.config.stash[_RESULTS].append(result(row, scenario, reach, seen, ok, _bug(request.node)))
        if not ok:
            missed.append(f"{scenario}: {seen}; to reach: {reach or BY_NUMBER[row].reach}")

    return record


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[Any]:
    """All figures of a scenario are recorded before a missed one fails it."""
    outcome = yield
    missed = pyfuncitem.stash.get(_MISSED, [])
    if missed:
        pytest.fail("\n".join(missed), pytrace=False)
    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for found in config.stash[_RESULTS]:
        terminalreporter.write_line(f"{'pass' if found.ok else 'FAIL'}  {found.row:2} {found.scenario}: {found.seen}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    results = session.config.stash[_RESULTS]
    if results:
        PAGE.write_text(page(write(results)), "utf-8")


@pytest.fixture
def make_server(tmp_path: Path, tiny_llama: Path) -> Iterator[MakeServer]:
    """Servers over the tiny model, or HF_MODEL_ID, in float32: there a batch changes no token."""
    servers: list[Server] = []

    def make(**environ: str) -> Server:
        values = {
            "HF_MODEL_ID": str(tiny_llama),
            "CACHE_DIR": str(tmp_path / "cache"),
            "DTYPE": "float32",
            "ENGINE_THREADS": "1",
        }
        servers.append(Server(tmp_path / f"log{len(servers)}", values | environ))
        servers[-1].wait_ready(300)
        return servers[-1]

    yield make
    for server in servers:
        server.kill()
