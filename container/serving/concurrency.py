"""Places for sequences, counted over all web workers before any work is done for a request.

One small mapped file in the run directory: a number for each worker, written by that worker alone. A worker holds its
number by a lock that the kernel drops when the process ends, so a dead worker's places are free once its successor
has taken the number over. The sum may be exceeded by as many requests as there are workers, when all look at once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

_NUM_WORKERS = 64
_BYTES = 8


class Places:
    """The counts of all workers, and this worker's own."""

    def __init__(self, path: Path) -> None:
        """Open or make the file and claim a number. Raises OSError if it cannot be used or all are claimed."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, _NUM_WORKERS * _BYTES)
        self._map = mmap.mmap(self._file, _NUM_WORKERS * _BYTES)
        self._offset = self._claim()
        self.held = 0
        self._write()

    def _claim(self) -> int:
        for number in range(_NUM_WORKERS):
            offset = number * _BYTES
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _BYTES, offset)
            except (BlockingIOError, PermissionError):
                continue
            return offset
        raise OSError(f"more than {_NUM_WORKERS} web workers")

    @property
    def taken(self) -> int:
        """Places all workers hold together."""
        return sum(struct.unpack(f"{_NUM_WORKERS}q", self._map[:]))

    def take(self, count: int, limit: int) -> bool:
        """Hold `count` places more if they and all others are at most `limit`. Nobody at all may exceed it alone."""
        others = self.taken
        if others and others + count > limit:
            return False
        self.held += count
        self._write()
        return True

    def give_back(self, count: int) -> None:
        """Return places."""
        self.held -= count
        self._write()

    def _write(self) -> None:
        struct.pack_into("q", self._map, self._offset, self.held)

    def close(self) -> None:
        """Return everything and the number."""
        self.give_back(self.held)
        self._map.close()
        os.close(self._file)
