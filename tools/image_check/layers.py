"""Image layers as in Docker: one directory of changes for each instruction, merged with overlayfs."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.image_check.enter import mount


@dataclass(frozen=True)
class Layer:
    """The files that one instruction created or changed; `created_by` is that instruction."""

    path: Path
    created_by: str

    def size_bytes(self) -> int:
        """Total size of its files; hard links count once."""
        return sum(info.st_size for info in _infos(self.path))


@contextlib.contextmanager
def seen_together(layers: Sequence[Path], scratch: Path, upper: Path | None = None) -> Iterator[Path]:
    """Mount `layers`, lowest first, at a directory below `scratch` and yield it.

    Read-only unless `upper` is given, which then receives all writes. Needs a private mount namespace.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    target, work, empty = scratch / "merged", scratch / "work", scratch / "empty"
    for directory in (target, work, empty):
        directory.mkdir(exist_ok=True)
    # Without an upper layer overlayfs requires two lower ones.
    lower = [*reversed(layers)] + ([] if upper else [empty])
    options = "lowerdir=" + ":".join(map(str, lower))
    if upper:
        options += f",upperdir={upper},workdir={work}"
    mount("-t", "overlay", "overlay", "-o", options, str(target))
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def seal(layer: Path) -> None:
    """Truncate all file times to whole seconds, the resolution of a layer's archive."""
    for directory, names, files in os.walk(layer):
        for name in [*names, *files]:
            path = Path(directory, name)
            info = path.lstat()
            if not stat.S_ISCHR(info.st_mode):
                os.utime(path, (int(info.st_atime), int(info.st_mtime)), follow_symlinks=False)


def _infos(directory: Path) -> Iterator[os.stat_result]:
    seen: set[tuple[int, int]] = set()
    for path in directory.rglob("*"):
        info = path.lstat()
        if stat.S_ISREG(info.st_mode) and (info.st_dev, info.st_ino) not in seen:
            seen.add((info.st_dev, info.st_ino))
            yield info
