"""Asks pip, by a dry run, whether the requirements of a user's code can be met in the image: Linux, Python 3.11.

The image's own packages are not known here, so a version that contradicts them is found only at the container's start.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sagemaker_deploy.errors import PreflightError

LIMIT_S = 120
_WHEELS = "requirements"
_IMAGE = (
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64", "--platform", "linux_x86_64"),
    *("--python-version", "3.11", "--implementation", "cp", "--only-binary", ":all:"),
)
_OPTIONS = (
    *("--dry-run", "--ignore-installed", "--disable-pip-version-check", "--no-input", "--no-cache-dir"),
    *("--retries", "1", "--timeout", "10", "-vv"),
)


def check_requirements(requirements: Path) -> str:
    """Return why `requirements` was not checked, "" if it was and can be met. Nothing is installed or built.

    Raises `PreflightError` with pip's reason if it cannot be met.
    """
    if importlib.util.find_spec("pip") is None:
        return f"{requirements} was not checked: pip is not installed here"
    lines = _dry_run(requirements)
    if lines is None:
        return f"{requirements} was not checked: pip gave no answer within {LIMIT_S} s"
    if not lines:
        return ""
    return _verdict(requirements, lines)


def _dry_run(requirements: Path) -> list[str] | None:
    """pip's lines if it failed, none if all can be met, None after the time limit."""
    wheels = requirements.parent / _WHEELS
    source = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "install", *_OPTIONS, *_IMAGE, "--target", target, *source]
        try:
            run = subprocess.run(  # noqa: S603 - the user's own requirements, as pip reads them anywhere
                [*command, "-r", str(requirements)], capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return None
    return [*run.stdout.splitlines(), *run.stderr.splitlines()] if run.returncode else []


def _verdict(requirements: Path, lines: Sequence[str]) -> str:
    errors = [line.removeprefix("ERROR: ").strip() for line in lines if line.startswith("ERROR: ")]
    reason = errors[0] if errors else "pip failed"
    if any("Retrying (" in line for line in lines):
        return f"{requirements} was not checked: no package index can be reached"
    missing = re.match(r"Could not find a version that satisfies the requirement ([\w.-]+)", reason)
    if missing and _has_sources(missing[1], lines):
        return f"{requirements} was not checked: {missing[1]} has no wheel for the image, which has no compiler"
    raise PreflightError(
        f"{requirements} cannot be met in the image: {reason}",
        remedy=f"correct it, or put wheels for Linux and Python 3.11 into {requirements.parent / _WHEELS}",
    )


def _has_sources(name: str, lines: Sequence[str]) -> bool:
    """True if pip passed over source distributions of the package, which it names in its normal form."""
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return any(f"No sources permitted for {normal}:" in line for line in lines)
