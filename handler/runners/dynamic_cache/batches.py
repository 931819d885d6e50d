"""`CacheBatches`: the cache row of every running sequence, on its own or in a batch that decodes together."""

from __future__ import annotations

from dataclasses import dataclass

from transformers.cache_utils import Cache

from handler.runners.dynamic_cache.rows import merge, split

_GONE = -1


@dataclass(slots=True, eq=False)
class DecodeBatch:
    """Row i of `cache` belongs to `slots[i]` and has seen `lengths[i]` tokens; a forgotten row's slot is _GONE."""

    slots: list[int]
    lengths: list[int]
    cache: Cache

    def grow(self) -> None:
        """Each row has seen one more token."""
        self.lengths = [length + 1 for length in self.lengths]


class CacheBatches:
    """Rows by slot. A batch stays as it is while the same slots decode, and is taken apart when one joins or leaves."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Cache, int]] = {}
        self._batches: list[DecodeBatch] = []

    def __len__(self) -> int:
        return len(self._rows) + sum(own != _GONE for batch in self._batches for own in batch.slots)

    def length(self, slot: int) -> int:
        """Tokens that the row of `slot` has seen; 0 if it has none."""
        if slot in self._rows:
            return self._rows[slot][1]
        for batch in self._batches:
            if slot in batch.slots:
                return batch.lengths[batch.slots.index(slot)]
        return 0

    def put(self, slot: int, cache: Cache, length: int) -> None:
        """Keep a row of its own for `slot`, which must have none."""
        self._rows[slot] = (cache, length)

    def take(self, slot: int) -> Cache:
        """Hand out the row of `slot`, to be put back. Raises KeyError if it has none."""
        self._dissolve([batch for batch in self._batches if slot in batch.slots])
        return self._rows.pop(slot)[0]

    def gather(self, groups: list[list[int]]) -> list[DecodeBatch]:
        """One batch for each group of slots; every other batch is taken apart. Raises KeyError, UnknownCacheLayer."""
        kept = {tuple(batch.slots): batch for batch in self._batches if batch.slots in groups}
        self._dissolve([batch for batch in self._batches if batch.slots not in groups])
        found = []
        for group in groups:
            batch = kept.get(tuple(group))
            if batch is None:
                batch = self._join(group)
                self._batches.append(batch)
            found.append(batch)
        return found

    def forget(self, slot: int) -> None:
        """Drop the row of `slot`, if it has one."""
        self._rows.pop(slot, None)
        for batch in self._batches:
            batch.slots = [_GONE if own == slot else own for own in batch.slots]
        self._batches = [batch for batch in self._batches if any(own != _GONE for own in batch.slots)]

    def _join(self, slots: list[int]) -> DecodeBatch:
        rows = [self._rows.pop(slot) for slot in slots]
        cache = rows[0][0] if len(rows) == 1 else merge([cache for cache, _ in rows])
        return DecodeBatch(list(slots), [length for _, length in rows], cache)

    def _dissolve(self, batches: list[DecodeBatch]) -> None:
        for batch in batches:
            self._batches.remove(batch)
            for index, (slot, length) in enumerate(zip(batch.slots, batch.lengths, strict=True)):
                if slot != _GONE:
                    self._rows[slot] = (split(batch.cache, index, length), length)
