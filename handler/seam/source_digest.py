"""What names a file that code has made: the code itself, so that other code makes it anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_DIGITS = 8


def source_digest(files: Iterable[Path]) -> str:
    """Eight hexadecimal digits of the content of source files. Raises OSError."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()[:_DIGITS]
