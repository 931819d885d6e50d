"""A stand-in for the base image: the same Debian release from debootstrap, with Debian's Python of that version.

It differs from `python:3.x-slim` in the source and patch level of Python. The C library, the packages installed on top
and the layout that the Dockerfile relies on (`python` in /usr/local/bin, no compiler) are the same.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_IMAGE = re.compile(r"(?:.*/)?python:(?P<python>3\.\d+)(?:\.\d+)?-slim-(?P<release>[a-z]+)(?:@sha256:[0-9a-f]{64})?")


def release_and_python(image: str) -> tuple[str, str]:
    """("bookworm", "3.11") for "python:3.11.15-slim-bookworm". Raises ValueError for any other kind of image."""
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise ValueError(f"{image} is not python:3.x-slim-RELEASE, the only base that can be replayed")
    return found["release"], found["python"]


def make(image: str, mirror: str, target: Path) -> None:
    """Fill the empty directory `target`. Raises CalledProcessError; debootstrap writes the reason to stderr."""
    release, python = release_and_python(image)
    # debootstrap ignores virtual packages, so name python3-distutils, which python3.x-venv needs.
    packages = f"ca-certificates,python{python},python{python}-venv,python3-distutils"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(target), mirror]
    subprocess.run(command, check=True, stdout=sys.stderr.fileno())
    for name in ("python", "python3", f"python{python}"):
        (target / "usr/local/bin" / name).symlink_to(f"/usr/bin/python{python}")
