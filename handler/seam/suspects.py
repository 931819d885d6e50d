"""Requests that were at work when an engine died: after the second time nobody tries them again.

Two mapped files in the run directory. An engine writes into its `Hazards` whose tokens it is about to compute, and up
to which position; what stands there when it dies is what may have killed it. PID 1 then counts those in `Suspects`,
which the next engine reads: up to that position a suspect runs alone, so that a second death there proves it guilty and
nobody else. One that finishes is no suspect any more.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import msgspec

from handler.seam.protocol import GenerateRequest

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
        self._words = _Words(path, 2 + 2 * _NUM_PLACES, create=create)

    def enter(self, running: list[tuple[int, int]]) -> None:
        """These run now: fingerprints, and the positions up to which they are computed."""
        known = running[:_NUM_PLACES]
        self._words.write(2, *(word for pair in known for word in pair))
        self._words.write(0, len(known))

    def leave(self) -> None:
        """They survived."""
        self._words.write(0, 0)

    def compile(self, fingerprint: int) -> None:
        """The grammar of this request is being compiled; 0 when it is done."""
        self._words.write(1, fingerprint)

    def take(self) -> dict[int, int]:
        """What was in hand when the engine died, and up to which position; forgets it."""
        num, grammar = self._words.read(0, 2)
        words = self._words.read(2, 2 * min(num, _NUM_PLACES))
        found = dict(zip(words[::2], words[1::2], strict=True))
        found.setdefault(grammar, 0)
        found.pop(0, None)
        self._words.write(0, 0, 0)
        return found

    def close(self) -> None:
        """Unmap the file."""
        self._words.close()


class Suspects:
    """Deaths and position for each fingerprint. PID 1 adds, engines read and acquit. Word 0 counts all entries made."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Map `path`; with `create`, make it first. Raises OSError if it is missing."""
        self._words = _Words(path, 1 + 3 * _NUM_SUSPECTS, create=create)

    def record_deaths(self, hazards: Mapping[int, int]) -> None:
        """An engine died with these in hand. Beyond `_NUM_SUSPECTS` the oldest entry gives way."""
        for each, position in hazards.items():
            place = self._place(each)
            if place is None:
                (made,) = self._words.read(0, 1)
                place = made % _NUM_SUSPECTS
                self._words.write(1 + 3 * place, each, 0, 0)
                self._words.write(0, made + 1)
            self._words.write(2 + 3 * place, self.find(each)[0] + 1, position)

    def find(self, fingerprint: int) -> tuple[int, int]:
        """Engines that died with it in hand since it last finished, and the position at the last death."""
        place = self._place(fingerprint)
        if place is None:
            return 0, 0
        deaths, position = self._words.read(2 + 3 * place, 2)
        return deaths, position

    def clear(self, fingerprint: int) -> None:
        """It has finished."""
        place = self._place(fingerprint)
        if place is not None:
            self._words.write(2 + 3 * place, 0, 0)

    def _place(self, fingerprint: int) -> int | None:
        (made,) = self._words.read(0, 1)
        if not made:
            return None
        known = self._words.read(1, 3 * min(made, _NUM_SUSPECTS))[::3]
        return known.index(fingerprint) if fingerprint in known else None

    def close(self) -> None:
        """Unmap the file."""
        self._words.close()
