"""A pytest plugin: carries out `@pytest.mark.needs(...)` and lists what was skipped, by kind.

With `CI=true` a run fails if a test was skipped for a reason that `tests/support/needs.py` does not allow there.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.support.needs import ALLOWED_IN_CI, Kind, kind_of, require


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): what the machine must have; tests/support/needs.py names it")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            require(name)


def _skipped(config: pytest.Config) -> list[tuple[str, str]]:
    """(test, reason) of each skip, also of those that workers of pytest-xdist report."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return [(report.nodeid, report.longrepr[2].removeprefix("Skipped: ")) for report in reports]


def _forbidden(config: pytest.Config) -> list[tuple[str, str]]:
    return [(test, text) for test, text in _skipped(config) if kind_of(text) not in ALLOWED_IN_CI]


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = _skipped(config)
    for kind in Kind:
        by_reason = Counter(text for _, text in skipped if kind_of(text) is kind)
        if by_reason:
            terminalreporter.section(f"skipped {kind.value}")
            for text, count in sorted(by_reason.items()):
                terminalreporter.write_line(f"{count:4}  {text}")
                by_file = Counter(test.partition("::")[0] for test, found in skipped if found == text)
                for file, part in sorted(by_file.items()):
                    terminalreporter.write_line(f"      {part:4}  {file}")
    forbidden = _forbidden(config)
    if forbidden and _in_ci():
        terminalreporter.section("skipped for a reason that CI does not allow", red=True)
        for test, text in forbidden:
            terminalreporter.write_line(f"{test}: {text}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The controller alone sees all reports; a worker's exit status counts for nothing."""
    if session.exitstatus == pytest.ExitCode.OK and _in_ci() and _forbidden(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
