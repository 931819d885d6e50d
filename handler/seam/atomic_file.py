"""Atomic replacement of a file: readers see the old file or the complete new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary file beside `target`. It replaces `target` when the block ends, and is deleted if it raises.

    Creates the directory. Concurrent writers do not interfere; the last one wins. Raises OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".new")
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        # A crash of the machine must not leave a file of the right length without its content.
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
