"""What `--help`, `--version` and `--env` print. None of it starts anything, and no variable's value is shown."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import metadata

from container.settings import Settings
from container.supervisor import launcher
from container.version import VERSION
from handler.seam.processors import usable_cpus

_NAMES = {"-h": "--help", "-V": "--version", "-e": "--env"}
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")


def information(program: str, arguments: Sequence[str], usage: str) -> str | None:
    """The text that `arguments` ask `program` for, with its own `usage`; None if they ask for none.

    The value of an argument is no question, even if it is `--help`.
    """
    for before, given in zip(("", *arguments), arguments, strict=False):
        if launcher.takes_value(before):
            continue
        match _NAMES.get(given, given):
            case "--help":
                return usage
            case "--version":
                return f"{program} {VERSION} (tgi-heir)"
            case "--env":
                return _environment()
    return None


def launcher_usage(program: str) -> str:
    """The usage of the server itself: its arguments and its settings."""
    lines = [f"usage: {program} [serve] [--help] [--version] [--env] [ARGUMENT ...]", "", "Arguments:"]
    lines += [f"  {argument}" for argument in launcher.arguments()]
    lines += ["", "Environment variables (docs/configuration.md):"]
    for item in fields(Settings):
        lines += [f"  {', '.join(item.metadata['names'])}", f"      {item.metadata['help']}"]
    return "\n".join(lines)


def _environment() -> str:
    found = {
        "tgi-heir": VERSION,
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "cores": f"{usable_cpus():g} of {os.cpu_count()}",
        "GPUs": ", ".join(sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))) or "none",
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["executable"] = sys.executable
    return "\n".join(f"{name}: {value}" for name, value in found.items())
