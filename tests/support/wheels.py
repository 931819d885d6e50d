"""Tiny wheels, made without a build."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str = "1.0", needs: Sequence[str] = (), module: str = "") -> Path:
    """Write a wheel with one module, `name` unless `module` is given, that has `VERSION`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {one}" for one in needs)]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{module or name}.py", f"VERSION = {version!r}\n")
        file.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(metadata) + "\n")
        file.writestr(
            f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return path
