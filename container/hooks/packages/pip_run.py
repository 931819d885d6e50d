"""One run of pip in a virtual environment, and its failure in one sentence."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

_OPTIONS = ("--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off")


class BadRequirements(Exception):
    """Packages that the user's code requires cannot be installed; the message is one sentence."""


class PipFailed(Exception):
    """pip ended with an error; the message is the reason, in the words of its last errors."""


def run_pip(environment: Path, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Run `pip install` with `arguments` by the interpreter of `environment`, its lines into the log.

    The interpreter's own variables do not count. Raises PipFailed, and ends pip if this process is told to end.
    """
    command = [str(environment / "bin" / "python"), "-I", "-m", "pip", "install", *_OPTIONS, *arguments]
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603 - the operator's own requirements
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(environ),
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                lines.append(without_credentials(line.rstrip()))
                logger.info("pip: %s", lines[-1])
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise PipFailed(reason(lines) or f"pip ended with status {pip.returncode}")


def without_credentials(text: str) -> str:
    """`text` with user and password of each URL replaced."""
    return re.sub(r"://[^/\s@]+@", "://****@", text)


def reason(lines: Sequence[str]) -> str:
    """Why pip failed, from its lines: a version that this image has already, no connection, or pip's first error."""
    for line in lines:
        if fixed := re.fullmatch(r"\s*The user requested \(constraint\) (\S+?)==(\S+)", line):
            return _conflict(lines, fixed[1], fixed[2])
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    cause = errors[0] if errors else next((line for line in reversed(lines) if line.strip()), "")
    if any("Retrying (" in line for line in lines):
        return f"the package index could not be reached ({cause})"
    return cause.strip()


def _conflict(lines: Sequence[str], name: str, version: str) -> str:
    for line in lines:
        asked = re.fullmatch(r"\s*(?:The user requested|(\S+ \S+) depends on) (?!\()(.+)", line)
        if asked and re.match(rf"{re.escape(name)}\b", asked[2].replace("_", "-"), re.IGNORECASE):
            who = f"{asked[1]} needs {asked[2]}" if asked[1] else f"it asks for {asked[2]}"
            return f"{who}, and this server keeps its own {name} {version}"
    return f"this server keeps its own {name} {version}"
