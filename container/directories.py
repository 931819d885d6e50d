"""The two directories that are written to: the cache, which is kept, and one that lasts as long as the container."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# A Unix socket's path has at most 107 bytes; names in the run directory have fewer than 27.
_MAX_RUN_DIR_BYTES = 80
# Writable even in a container with a read-only file system and no /tmp.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a private directory in it


class NotWritable(Exception):
    """A directory cannot be created or written to; the message is one sentence that names it."""


def temporary_directory() -> Path:
    """TMPDIR or the system's temporary directory; shared memory if there is neither."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return _SHARED_MEMORY


def name_temporary_directory() -> None:
    """Set TMPDIR if the system has no temporary directory: libraries of the engine fail without one."""
    directory = temporary_directory()
    if directory == _SHARED_MEMORY:
        os.environ["TMPDIR"] = str(directory)


def default_cache_dir() -> str:
    """`.cache/tgi-heir` in the home directory if that is writable, else `tgi-heir` in the temporary directory."""
    home = Path(os.path.expanduser("~"))
    base = home / ".cache" if home.is_dir() and os.access(home, os.W_OK) else temporary_directory()
    return str(base / "tgi-heir")


def check_writable(path: Path) -> None:
    """Create the cache directory (mode 0700 if new) and check that it is writable. Raises NotWritable."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as exc:
        raise NotWritable(f"CACHE_DIR {str(path)!r} cannot be written to: {exc.strerror or exc}") from exc


def make_run_dir() -> Path:
    """Create a private directory (0700) with a path short enough for sockets. Raises NotWritable."""
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
