"""Cuts a wheel to what one machine needs: bitsandbytes holds a library for each version of CUDA."""

from __future__ import annotations

import fnmatch
import zipfile
from pathlib import Path

# Package -> shared libraries that stay; `{cuda}` is the version without its dot, as in cu130.
KEPT_LIBRARIES = {"bitsandbytes": ("libbitsandbytes_cuda{cuda}.so",)}


def cut(wheel: Path, cuda: str) -> None:
    """Drop the shared libraries of other CUDA versions; wheels that `KEPT_LIBRARIES` does not name stay whole.

    Raises ValueError if nothing would be left for `cuda`. The wheel's RECORD still names what is gone: a bundle is
    unpacked, never installed.
    """
    patterns = [pattern.format(cuda=cuda) for pattern in KEPT_LIBRARIES.get(package_of(wheel), ())]
    if not patterns:
        return
    scratch = wheel.with_suffix(".cut")
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as part:
        libraries = [name for name in whole.namelist() if name.endswith(".so")]
        kept = {name for name in libraries if any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in patterns)}
        if not kept:
            raise ValueError(f"{wheel.name} has no {', '.join(patterns)}; it has {', '.join(sorted(libraries))}")
        for name in whole.namelist():
            if name not in libraries or name in kept:
                part.writestr(name, whole.read(name))
    scratch.replace(wheel)


def package_of(wheel: Path) -> str:
    """The package's name, as it stands in the file's name."""
    return wheel.name.partition("-")[0].lower()
