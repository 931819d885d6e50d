"""Requests and adapters that may crash the engine. One that was running, or loading, at two crashes is refused.

Two memory-mapped files in the run directory:

- `Hazards`, one per engine: before each step the engine writes the fingerprints of the requests it is about to compute,
  and up to which position. After a crash, the file names the requests that may have caused it.
- `Suspects`, one for all engines: PID 1 adds the hazards of a crashed engine here, and engines read it. A suspect runs
  alone up to the position of the crash, so a second crash there identifies it. It is cleared when it finishes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import msgspec

from handler.seam.protocol import GenerateRequest

# A request that was running at this many crashes is refused.
MAX_DEATHS = 2
_WORD = struct.Struct("q")
_NUM_HAZARDS = 4096
_FIRST_PAIR = 4
_NUM_SUSPECTS = 1024

_encoder = msgspec.msgpack.Encoder()


def fingerprint(request: GenerateRequest) -> int:
    """A nonzero hash that is equal for all retries of a request. Id and seed differ between retries and are ignored."""
    sampling = msgspec.structs.replace(request.sampling, seed=0)
    raw = _encoder.encode((request.prompt_token_ids, sampling, request.cache_salt, request.adapter))
    (found,) = _WORD.unpack(blake2b(raw, digest_size=8).digest())
    return int(found) or 1


class _Words:
    """A mapped file of 8-byte numbers. Each write is one aligned store: readers see the old or the new value."""

    def __init__(self, path: Path, num_words: int, *, create: bool) -> None:
        if create:
            path.touch(mode=0o600)
            path.write_bytes(b"\0" * (8 * num_words))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * num_words)

    def read(self, first: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"{count}q", self._map, 8 * first)

    def write(self, first: int, *values: int) -> None:
        struct.pack_into(f"{len(values)}q", self._map, 8 * first, *values)

    def close(self) -> None:
        self._map.close()


class Hazards:
    """The requests one engine is computing, and what else could end it.

    Word 0 is the number of pairs (fingerprint, position) that follow from word 4 on. The words between are fingerprints
    or 0: of the request whose grammar is being compiled, of the adapter that is being read, and of the adapter that
    is being put into a slot.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map `path`; with `create`, make it first. Raises OSError if it is missing."""
        self._words = _Words(path, _FIRST_PAIR + 2 * _NUM_HAZARDS, create=create)

    def enter(self, running: list[tuple[int, int]]) -> None:
        """Write the fingerprints of a step, each with the position up to which it is computed."""
        known = running[:_NUM_HAZARDS]
        self._words.write(_FIRST_PAIR, *(word for pair in known for word in pair))
        self._words.write(0, len(known))

    def leave(self) -> None:
        """Clear the step: it succeeded."""
        self._words.write(0, 0)

    def set_compiling(self, fingerprint: int) -> None:
        """Write the request whose grammar is being compiled; 0 once it is done."""
        self._words.write(1, fingerprint)

    def set_reading(self, fingerprint: int) -> None:
        """Write the adapter whose files are being read; 0 once they are."""
        self._words.write(2, fingerprint)

    def set_filling(self, fingerprint: int) -> None:
        """Write the adapter that is being put into a slot; 0 once it is there."""
        self._words.write(3, fingerprint)

    def take(self) -> dict[int, int]:
        """Position by fingerprint of everything that was in progress when the engine died. Clears the file."""
        num, *beside = self._words.read(0, _FIRST_PAIR)
        words = self._words.read(_FIRST_PAIR, 2 * min(num, _NUM_HAZARDS))
        found = dict(zip(words[::2], words[1::2], strict=True))
        for each in beside:
            found.setdefault(each, 0)
        found.pop(0, None)
        self._words.write(0, *[0] * _FIRST_PAIR)
        return found

    def close(self) -> None:
        """Unmap the file."""
        self._words.close()


class Suspects:
    """Crashes and position by fingerprint. PID 1 adds entries; engines read and clear them.

    Word 0 counts all entries ever made; entries of three words follow, used as a ring.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map `path`; with `create`, make it first. Raises OSError if it is missing."""
        self._words = _Words(path, 1 + 3 * _NUM_SUSPECTS, create=create)

    def record_deaths(self, hazards: Mapping[int, int]) -> None:
        """Count a crash of an engine against each of its `hazards`. A full table overwrites its oldest entry."""
        for each, position in hazards.items():
            index = self._index(each)
            if index is None:
                (made,) = self._words.read(0, 1)
                index = made % _NUM_SUSPECTS
                self._words.write(1 + 3 * index, each, 0, 0)
                self._words.write(0, made + 1)
            self._words.write(2 + 3 * index, self.find(each)[0] + 1, position)

    def find(self, fingerprint: int) -> tuple[int, int]:
        """Crashes while this request ran, since it last finished, and the position at the last one; else (0, 0)."""
        index = self._index(fingerprint)
        if index is None:
            return 0, 0
        deaths, position = self._words.read(2 + 3 * index, 2)
        return deaths, position

    def clear(self, fingerprint: int) -> None:
        """Reset the count of a request that has finished."""
        index = self._index(fingerprint)
        if index is not None:
            self._words.write(2 + 3 * index, 0, 0)

    def _index(self, fingerprint: int) -> int | None:
        (made,) = self._words.read(0, 1)
        if not made:
            return None
        known = self._words.read(1, 3 * min(made, _NUM_SUSPECTS))[::3]
        return known.index(fingerprint) if fingerprint in known else None

    def close(self) -> None:
        """Unmap the file."""
        self._words.close()
