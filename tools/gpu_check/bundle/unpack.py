"""Unpacks a bundle into a folder that comes first on this process's path. Nothing of the machine's own changes."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

from tools.gpu_check.bundle.description import Description


def unpack(bundle: Path, directory: Path) -> None:
    """Extract every wheel of `bundle` into `directory` and put that on the path, for child processes too.

    Call it before any of the bundle's packages is imported. Raises RuntimeError if the bundle is for another Python.
    """
    wanted, here = Description.read(bundle).python, f"{sys.version_info[0]}.{sys.version_info[1]}"
    if wanted != here:
        raise RuntimeError(f"the bundle is for Python {wanted}, this is {here}: make gpu-bundle GPU_PYTHON={here}")
    for wheel in sorted(bundle.glob("*.whl")):
        with zipfile.ZipFile(wheel) as file:
            file.extractall(directory)
    sys.path.insert(0, str(directory))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(directory), before]))
