"""A stand-in for the base image: Debian of the same release from debootstrap, with Debian's Python of that version.

It differs from `python:3.x-slim` in where Python comes from and in its patch level; what is installed on top of it,
the C library and the layout that the Dockerfile relies on (`python` below /usr/local/bin, no compiler) are the same.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_IMAGE = re.compile(r"(?:.*/)?python:(?P<python>3\.\d+)(?:\.\d+)?-slim-(?P<release>[a-z]+)(?:@sha256:[0-9a-f]{64})?")


def release_and_python(image: str) -> tuple[str, str]:
    """("bookworm", "3.11") of "python:3.11.15-slim-bookworm". Raises ValueError for any other kind of image."""
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise ValueError(f"{image} is no python:3.x-slim-RELEASE, the only base that can be replayed")
    return found["release"], found["python"]


def make(image: str, mirror: str, target: Path) -> None:
    """Fill the empty directory `target`. Raises CalledProcessError with debootstrap's words on stderr."""
    release, python = release_and_python(image)
    # debootstrap does not follow what packages provide: python3-distutils is named for python3.x-venv's sake.
    packages = f"ca-certificates,python{python},python{python}-venv,python3-distutils"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(target), mirror]
    subprocess.run(command, check=True, stdout=sys.stderr.fileno())
    for name in ("python", "python3", f"python{python}"):
        (target / "usr/local/bin" / name).symlink_to(f"/usr/bin/python{python}")
