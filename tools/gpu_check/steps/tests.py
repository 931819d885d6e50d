"""The tests that run on a GPU unchanged, by pytest: products, the kernel against the emulator, graphs, pressure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.gpu_check.lines import Line, check, fact
from tools.gpu_check.setting import Setting

_ROOT = Path(__file__).resolve().parents[3]
_LINEARS, _ENGINE = (str(_ROOT / "tests" / "engine" / name) for name in ("test_gpu_linears.py", "test_gpu.py"))
FILES = (_LINEARS, _ENGINE)
_KERNEL = "test_the_kernel_says_what_the_emulator_says"
# Each is reported when it ends, so that a step which is out of time has shown something.
_PARTS = ([_LINEARS], [_ENGINE, "-k", _KERNEL], [_ENGINE, "-k", f"not {_KERNEL}"])
_TINY = ([f"{_ENGINE}::{_KERNEL}[heads1-128-window0]"],)


class _Record:
    """A pytest plugin: the outcome of each test."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self.num_passed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test has failed in any of its phases, or passed in its own."""
        if report.failed:
            text = str(report.longrepr).strip().splitlines()
            self.failed[report.nodeid.rpartition("::")[2]] = text[-1] if text else ""
        elif report.when == "call" and report.passed:
            self.num_passed += 1


def tests(setting: Setting) -> Iterator[Line]:
    """For each part of the tests: a line for each that failed, how many passed, and pytest's exit code."""
    # Plugins that the machine has may warn, and a warning is an error here.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for part in _TINY if setting.tiny else _PARTS:
        yield from _part(setting, part)


def _part(setting: Setting, chosen: list[str]) -> Iterator[Line]:
    import pytest

    record = _Record()
    options = ["-q", "-m", "gpu", "--rootdir", str(_ROOT), "--basetemp", str(setting.scratch / "pytest")]
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_timeout", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = pytest.main([*chosen, *options, *plugins], plugins=[record])
    for name, reason in record.failed.items():
        yield check(name, reason, "passes")
    yield fact("passed", record.num_passed, chosen=" ".join(Path(each).name for each in chosen))
    yield check("pytest's exit code", int(code), 0)
