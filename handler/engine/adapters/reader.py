"""`AdapterReader`: copies, checks and reads adapters in a thread of its own, so that no stream waits for a file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from handler.adapters.adapter import Adapter, BadAdapter
from handler.engine.adapters.copies import SharedCopies
from handler.engine.adapters.own_copy import content_fingerprint, copy_files, files_of
from handler.engine.in_flight import InFlight
from handler.model.machine_memory import available_memory_bytes, trim_heap

logger = logging.getLogger(__name__)

# Bytes of memory left to the rest of the container when an adapter is read.
_SPARED = 256 << 20
# While it is read, an adapter takes so many times its file: the copy, the file's bytes and the tensors.
_TIMES = 3
# Seconds between attempts to delete copies that others may still need.
_SWEEP_S = 1.0


class NoMemory(Exception):
    """No memory is left for an adapter; one sentence for a client."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadAdapter:
    """An adapter and the fingerprint of its files."""

    adapter: Adapter
    fingerprint: int


class AdapterReader:
    """Reads one adapter at a time. `copies` holds the engines' own copies; without it files are read where they are."""

    def __init__(
        self,
        read: Callable[[Path], Adapter],
        in_flight: InFlight,
        copies: Path | None = None,
        free_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        """`read` makes an `Adapter` of a directory for the served model, or raises BadAdapter."""
        self._read = read
        self._in_flight = in_flight
        self._copies = None if copies is None else SharedCopies(copies)
        self._sweep_due_s = 0.0
        self._free_bytes = free_bytes
        self._thread = ThreadPoolExecutor(1, "adapter", _alone)
        self._newest: Future[ReadAdapter] | None = None

    def submit(self, path: Path, registration: str) -> Future[ReadAdapter]:
        """Read the adapter in `path`, or the copy that a registration has already.

        The future raises BadAdapter, NoMemory, or what the files make torch and Python raise.
        """
        self._newest = self._thread.submit(self._load, path, registration)
        return self._newest

    def forget(self, registration: str) -> None:
        """Delete the copy, once no engine may need it, and give the system the memory of what was dropped."""
        self._thread.submit(self._drop, registration)

    def forget_unlisted(self) -> None:
        """Delete the copies that earlier engines left."""
        if self._copies is not None:
            self._thread.submit(self._drop_unlisted, self._copies)

    def sweep(self) -> None:
        """Try again to delete what others needed; at most once a second."""
        if self._copies is not None and self._copies.num_dropped and time.monotonic() >= self._sweep_due_s:
            self._sweep_due_s = time.monotonic() + _SWEEP_S
            self._thread.submit(self._copies.sweep)

    def stop(self) -> None:
        """Begin to read nothing more. What is being read goes on."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def is_reading(self) -> bool:
        """Whether an adapter is being read, or waits for it."""
        return self._newest is not None and not self._newest.done()

    def _load(self, path: Path, registration: str) -> ReadAdapter:
        copy = None if self._copies is None else self._copies.use(registration)
        source = copy if copy is not None and copy.is_dir() else path
        self._check_memory(files_of(source))
        fingerprint = self._fingerprint(source)
        found = source
        if copy is not None:
            # A copy may take memory, and with it end this engine as reading may.
            with self._in_flight.reading(fingerprint):
                found = copy_files(source, copy)
            # The files may have been written again meanwhile.
            fingerprint = self._fingerprint(found)
        with self._in_flight.reading(fingerprint):
            return ReadAdapter(self._read(found), fingerprint)

    def _fingerprint(self, directory: Path) -> int:
        """Raises BadAdapter for an adapter that ended engines before."""
        fingerprint = content_fingerprint(directory)
        refusal = self._in_flight.adapter_refusal(fingerprint)
        if refusal is not None:
            raise BadAdapter(refusal)
        return fingerprint

    def _check_memory(self, files: list[Path]) -> None:
        needed = _TIMES * sum(path.stat().st_size for path in files)
        free = self._free_bytes() - _SPARED
        if needed > free:
            raise NoMemory(
                f"no memory is left for the adapter: reading it takes {needed >> 20} MiB, and {max(0, free) >> 20} MiB "
                "are free"
            )

    def _drop(self, registration: str) -> None:
        if self._copies is not None:
            self._copies.drop(registration)
            self._copies.sweep()
        trim_heap()

    @staticmethod
    def _drop_unlisted(copies: SharedCopies) -> None:
        copies.drop_unlisted()
        copies.sweep()


def _alone() -> None:
    """One thread of torch's: a step beside it needs the others."""
    torch.set_num_threads(1)
