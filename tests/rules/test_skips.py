"""Skips: each names a need, pytest lists them by kind, and CI fails for any other."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.needs import ALLOWED_IN_CI, NEEDS, Kind, kind_of, reason

ROOT = Path(__file__).resolve().parents[2]
# On the controller too, which sees reports only.
PLUGIN = """
from tests.support import needs
lacking = {kind: needs.Need(kind, f"nothing there is ({kind.name})", lambda: False) for kind in needs.Kind}
needs.NEEDS.update({kind.name: need for kind, need in lacking.items()})
from tests.support.skips import *
"""
ALLOWED = {
    "hardware": "@pytest.mark.needs('HARDWARE')\ndef test_it(): raise AssertionError\n",
    "elsewhere": "def test_it(): needs.require('ELSEWHERE')\n",
}
FORBIDDEN = {
    "installation": "@pytest.mark.needs('INSTALLATION')\ndef test_it(): raise AssertionError\n",
    "mark": "@pytest.mark.skipif(True, reason='no time')\ndef test_it(): pass\n",
    "call": "def test_it(): pytest.skip('no time')\n",
    "file": "pytest.skip('no time', allow_module_level=True)\n",
    "lookalike": "def test_it(): pytest.skip('needs HARDWARE: a rest')\n",
}
PROCESSES = pytest.mark.parametrize("options", [[], ["-p", "xdist", "-n", "2"]], ids=["one process", "two workers"])


def run(directory: Path, cases: dict[str, str], *options: str, **environment: str) -> tuple[int, str]:
    """pytest's exit code and output over a file for each case and one test that passes."""
    (directory / "lacking.py").write_text(PLUGIN)
    for name, code in ({"passes": "def test_it(): pass\n"} | cases).items():
        (directory / f"test_{name}.py").write_text(f"import pytest\nfrom tests.support import needs\n{code}")
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(directory), "-p", "lacking"]
    command += ["--import-mode=importlib", "--strict-markers", *options, str(directory)]
    environ = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
    environ |= {"PYTHONPATH": f"{ROOT}:{directory}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | environment
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@PROCESSES
def test_hardware_and_other_environments_are_listed_and_allowed(tmp_path: Path, options: list[str]) -> None:
    code, output = run(tmp_path, ALLOWED, *options, CI="true")
    assert code == 0, output
    assert f"skipped {Kind.HARDWARE.value}" in output
    assert f"skipped {Kind.ELSEWHERE.value}" in output
    assert "   1  needs HARDWARE: nothing there is (HARDWARE)\n         1  test_hardware.py" in output
    assert "CI does not allow" not in output


@PROCESSES
def test_any_other_skip_fails_in_ci(tmp_path: Path, options: list[str]) -> None:
    code, output = run(tmp_path, ALLOWED | FORBIDDEN, *options, CI="true")
    assert code == pytest.ExitCode.TESTS_FAILED, output
    _, _, section = output.partition("skipped for a reason that CI does not allow")
    assert [name for name in ALLOWED | FORBIDDEN if f"test_{name}.py" in section] == list(FORBIDDEN), output


@pytest.mark.parametrize("name", FORBIDDEN)
def test_one_such_skip_is_enough(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, {name: FORBIDDEN[name]}, CI="true")[0] == pytest.ExitCode.TESTS_FAILED


def test_a_developer_may_skip_anything(tmp_path: Path) -> None:
    assert run(tmp_path, FORBIDDEN)[0] == run(tmp_path, FORBIDDEN, CI="false")[0] == 0


def test_an_unknown_need_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_typo.py").write_text("import pytest\n@pytest.mark.needs('amy')\ndef test_it(): pass\n")
    code, output = run(tmp_path, {})
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "KeyError: 'amy'" in output


def test_a_reason_tells_its_kind() -> None:
    assert all(kind_of(reason(name)) is need.kind for name, need in NEEDS.items())
    assert kind_of("no time") is None
    assert Kind.INSTALLATION not in ALLOWED_IN_CI


def test_flags_are_read_from_the_system_and_not_from_the_code_under_test() -> None:
    names = {name for node in ast.walk(ast.parse(Path(needs.__file__).read_text())) for name in _imports(node)}
    assert not {name for name in names if name.startswith(("handler", "container"))}


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [str(node.module)]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_no_test_skips_without_naming_a_need() -> None:
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text in {"pytest.skip", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif"}:
                found.append(str(path.relative_to(ROOT)))
    assert found == ["tests/support/needs.py"]
