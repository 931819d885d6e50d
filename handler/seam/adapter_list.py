"""The adapters of the container: one JSON file, which web workers change and a starting engine reads.

The file is the truth: an engine that starts registers what it lists, whatever its predecessor had. Its directory also
holds the engines' own copies of the adapters' files, one folder for each registration.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from handler.seam.atomic_file import atomic_write

# Its lock is held by the worker that changes something. It is made with the first change.
CHANGES = "changes"


class AdapterEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One registered adapter.

    `src` is where its files were found when it was registered: a directory or, for one that the container starts with,
    a hub id, of `revision`. `registration` is new for each registration. Requests may name the adapter once it is
    `ready`: each engine has it. One of LORA_ADAPTERS is there `at_start`.
    """

    name: str
    src: str
    registration: str
    revision: str | None = None
    pin: bool = False
    ready: bool = False
    at_start: bool = False


class NameTaken(Exception):
    """An adapter of this name is in the list."""


def new_registration() -> str:
    """An id for a registration: 128 random bits in hexadecimal."""
    return secrets.token_hex(16)


class AdapterList:
    """The list in `directory`. Each change is one atomic replacement under a lock that all processes share."""

    def __init__(self, directory: Path) -> None:
        """The directory is made with the first change."""
        self.directory = directory
        self._path = directory / "list.json"

    @property
    def exists(self) -> bool:
        """Whether an engine has begun the list."""
        return self._path.exists()

    def read(self) -> list[AdapterEntry]:
        """All entries in the order of registration; none if there is no list yet. Raises OSError."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[AdapterEntry])
        except FileNotFoundError:
            return []

    def stamp(self) -> tuple[int, int]:
        """Changes whenever the list does: inode and time of the file; (0, 0) if there is none. One system call."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    def begin(self, entries: Iterable[AdapterEntry]) -> list[AdapterEntry]:
        """Make the list of the adapters the container starts with, unless it exists. Returns what it holds now."""
        with self._locked():
            if not self.exists:
                self._write(list(entries))
            return self.read()

    def add(self, entry: AdapterEntry) -> None:
        """Append `entry`. Raises NameTaken if its name is listed, and OSError."""
        with self._locked():
            known = self.read()
            if any(each.name == entry.name for each in known):
                raise NameTaken(entry.name)
            self._write([*known, entry])

    def replace(self, entry: AdapterEntry) -> None:
        """Append `entry` in place of whatever has its name."""
        with self._locked():
            self._write([*(each for each in self.read() if each.name != entry.name), entry])

    def mark_ready(self, registration: str) -> bool:
        """Let requests name the adapter; False if the registration is no longer listed."""
        return self._change(registration, ready=True)

    def pin(self, registration: str, pin: bool) -> bool:
        """Change `pin`; False if the registration is no longer listed."""
        return self._change(registration, pin=pin)

    def remove(self, registration: str) -> bool:
        """Drop the entry; False if it is not listed."""
        with self._locked():
            known = self.read()
            kept = [each for each in known if each.registration != registration]
            if len(kept) != len(known):
                self._write(kept)
            return len(kept) != len(known)

    @contextmanager
    def unchanging(self) -> Iterator[bool]:
        """Keep changes from beginning, unless one is under way. Yields whether none is.

        Then the list names every adapter that an engine may still be told to register.
        """
        path = self.directory / CHANGES
        if not path.exists():
            yield True
            return
        with path.open("r+") as file:
            yield try_lock(file.fileno())

    def _change(self, registration: str, **values: bool) -> bool:
        with self._locked():
            known = self.read()
            if not any(each.registration == registration for each in known):
                return False
            self._write([msgspec.structs.replace(e, **values) if e.registration == registration else e for e in known])
            return True

    def _write(self, entries: list[AdapterEntry]) -> None:
        with atomic_write(self._path) as scratch:
            scratch.write_bytes(msgspec.json.encode(entries))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the list. It is held for less than a millisecond, or as long as the disk takes to sync."""
        self.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        with (self.directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def try_lock(descriptor: int) -> bool:
    """Take the lock of a file until it is closed, unless another process has it. Returns whether it is taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
