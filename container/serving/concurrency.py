"""The limit on sequences in flight, counted over all web workers before any work is done for a request.

One small mapped file in the run directory holds a count for each worker, written by that worker alone. A worker owns
its count through a file lock that the kernel drops when the process ends, so a dead worker's sequences stop counting
once its successor has taken over its count. Workers that check at the same moment can exceed the limit, by one request
each at most.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

_NUM_WORKERS = 64
_BYTES = 8


class ConcurrencyLimit:
    """The counts of all workers, and this worker's own."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and claim a count. Raises OSError if the file is unusable or all are claimed."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, _NUM_WORKERS * _BYTES)
        self._map = mmap.mmap(self._file, _NUM_WORKERS * _BYTES)
        self._offset = self._claim()
        self._own = 0
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
    def in_flight(self) -> int:
        """Sequences of all workers together."""
        return sum(struct.unpack(f"{_NUM_WORKERS}q", self._map[:]))

    def acquire(self, num_sequences: int, limit: int) -> bool:
        """Count `num_sequences` more if the total stays within `limit`, or if nothing else is in flight."""
        others = self.in_flight
        if others and others + num_sequences > limit:
            return False
        self._own += num_sequences
        self._write()
        return True

    def release(self, num_sequences: int) -> None:
        """Undo `acquire`."""
        self._own -= num_sequences
        self._write()

    def _write(self) -> None:
        struct.pack_into("q", self._map, self._offset, self._own)

    def close(self) -> None:
        """Release everything, and the count itself."""
        self.release(self._own)
        self._map.close()
        os.close(self._file)
