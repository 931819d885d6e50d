"""Where `sitecustomize` lies, and what it has written."""

from __future__ import annotations

from pathlib import Path


def watched(log: Path) -> dict[str, str]:
    """The environment of a server that is watched."""
    # Not even the operator's promise that there is no hub: what stays inside must do so of itself.
    return {"PYTHONPATH": str(Path(__file__).parent), "AUDIT_LOG": str(log), "HF_HUB_OFFLINE": ""}


def starts(log: Path) -> int:
    """How many interpreters are watched."""
    return sum(line.endswith(" starts") for line in log.read_text().splitlines())


def findings(log: Path) -> list[str]:
    """What they did and may not do."""
    return [line for line in log.read_text().splitlines() if not line.endswith(" starts")]
