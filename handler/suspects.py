"""Requests that were at work when an engine died: after the second time nobody tries them again.

Two mapped files in the run directory. An engine writes into its `Hazards` whose tokens it is about to compute; what
stands there when it dies is what may have killed it. PID 1 then counts those in `Suspects`, which the next engine
reads: a suspect runs alone in its steps, so that a second death proves it guilty and nobody else, and one that
finishes is no suspect any more.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec

from handler.protocol import GenerateRequest

# Deaths of an engine at the same request after which it is refused.
MAX_DEATHS = 2
_WORD = struct.Struct("q")
_NUM_PLACES = 4096
_NUM_SUSPECTS = 1024

_encoder = msgspec.msgpack.Encoder()


def fingerprint(request: GenerateRequest) -> int:
    """The same for every try of a request; its id and seed, which are new for each, do not count. Never 0."""
    sampling = msgspec.structs.replace(request.sampling, seed=0)
    raw = _encoder.encode((request.prompt_token_ids, sampling, request.cache_salt))
    (found,) = _WORD.unpack(blake2b(raw, digest_size=8).digest())
    return int(found) or 1


class _Words:
    """A mapped file of 8-byte numbers. Each is one aligned store, so a reader sees the old or the new value."""

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
    """What one engine has in hand. Word 0 counts the fingerprints of the step, word 1 is that of a grammar."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map `path`; with `create`, make it first. Raises OSError if it is missing."""
        self._words = _Words(path, 2 + _NUM_PLACES, create=create)

    def enter(self, fingerprints: list[int]) -> None:
        """These run now."""
        known = fingerprints[:_NUM_PLACES]
        self._words.write(2, *known)
        self._words.write(0, len(known))

    def leave(self) -> None:
        """They survived."""
        self._words.write(0, 0)

    def compile(self, fingerprint: int) -> None:
        """The grammar of this request is being compiled; 0 when it is done."""
        self._words.write(1, fingerprint)

    def take(self) -> set[int]:
        """What was in hand when the engine died; forgets it."""
        num, grammar = self._words.read(0, 2)
        found = {*self._words.read(2, min(num, _NUM_PLACES)), grammar} - {0}
        self._words.write(0, 0, 0)
        return found

    def close(self) -> None:
        """Unmap the file."""
        self._words.close()


class Suspects:
    """Deaths for each fingerprint. PID 1 adds, engines read and acquit. Word 0 counts the entries ever made."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map `path`; with `create`, make it first. Raises OSError if it is missing."""
        self._words = _Words(path, 1 + 2 * _NUM_SUSPECTS, create=create)

    def blame(self, fingerprints: Iterable[int]) -> None:
        """An engine died with these in hand. Beyond `_NUM_SUSPECTS` the oldest entry gives way."""
        for each in fingerprints:
            place = self._place(each)
            if place is None:
                (made,) = self._words.read(0, 1)
                place = made % _NUM_SUSPECTS
                self._words.write(1 + 2 * place, each, 0)
                self._words.write(0, made + 1)
            self._words.write(2 + 2 * place, self.deaths(each) + 1)

    def deaths(self, fingerprint: int) -> int:
        """Engines that died with it in hand since it last finished."""
        place = self._place(fingerprint)
        return 0 if place is None else self._words.read(2 + 2 * place, 1)[0]

    def acquit(self, fingerprint: int) -> None:
        """It has finished."""
        place = self._place(fingerprint)
        if place is not None:
            self._words.write(2 + 2 * place, 0)

    def _place(self, fingerprint: int) -> int | None:
        (made,) = self._words.read(0, 1)
        if not made:
            return None
        known = self._words.read(1, 2 * min(made, _NUM_SUSPECTS))[::2]
        return known.index(fingerprint) if fingerprint in known else None

    def close(self) -> None:
        """Unmap the file."""
        self._words.close()
