"""The two directories that are written to: one that is kept, for the cache, and one for the life of the container."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# A Unix socket's path holds 107 bytes, and the longest name in the run directory is short of 27.
_MAX_RUN_DIR_BYTES = 80
# Where a container has memory to write to even if its file system is read-only and it has no /tmp.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private directory in it


class NotWritable(Exception):
    """No directory can be had; the message is one sentence that names it."""


def temporary_directory() -> Path:
    """TMPDIR, or wherever the system keeps temporary files; shared memory if it has no such place."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return _SHARED_MEMORY


def name_temporary_directory() -> None:
    """Set TMPDIR where nothing else names a place: libraries of the engine look for one and fail without."""
    place = temporary_directory()
    if place == _SHARED_MEMORY:
        os.environ["TMPDIR"] = str(place)


def default_cache_dir() -> str:
    """Below the home directory if that can be written to, else below the temporary one."""
    home = Path(os.path.expanduser("~"))
    base = home / ".cache" if home.is_dir() and os.access(home, os.W_OK) else temporary_directory()
    return str(base / "tgi-heir")


def check_writable(path: Path) -> None:
    """Make the cache directory, private (0700) if it is new. Raises NotWritable."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as exc:
        raise NotWritable(f"CACHE_DIR {str(path)!r} cannot be written to: {exc.strerror or exc}") from exc


def make_run_dir() -> Path:
    """A new private directory (0700), whose sockets have paths that are short enough. Raises NotWritable."""
    reasons = []
    for base in dict.fromkeys((temporary_directory(), Path("/tmp"), _SHARED_MEMORY)):  # noqa: S108 - as above
        if len(os.fsencode(base)) > _MAX_RUN_DIR_BYTES - len("/heir-12345678"):
            reasons.append(f"{base}: the path is too long for a socket")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="heir-", dir=base))
        except OSError as exc:
            reasons.append(f"{base}: {exc.strerror or exc}")
    raise NotWritable(f"no directory can be written to for sockets and state ({'; '.join(reasons)})")
