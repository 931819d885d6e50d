"""Accounting of KV memory in slots: which sequence holds which slot, and how much of it. Pure Python."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from handler.scheduling.sequence import Sequence
from handler.scheduling.slot_prefixes import SlotPrefixes


class SlotManager:
    """`KVManager` over one contiguous slot of `max_len` tokens per running sequence, under one budget of pages.

    The lowest free slot is allocated first: running sequences stay adjacent, and a batch of them is one view of the
    cache tensor. A sequence touches only the memory it fills; the budget counts that, in pages of `page_size` tokens.
    `on_release` receives each freed slot and how many of its tokens may have been written.
    """

    def __init__(
        self,
        num_slots: int,
        max_len: int,
        capacity_tokens: int,
        page_size: int,
        on_release: Callable[[int, int], None] = lambda _slot, _num_tokens: None,
        prefixes: SlotPrefixes | None = None,
    ) -> None:
        """Raises ValueError if `capacity_tokens` does not hold one sequence of `max_len` tokens."""
        if capacity_tokens < max_len:
            raise ValueError(f"kv_capacity_tokens must be at least max_model_len ({max_len}). Given: {capacity_tokens}")
        self.num_slots = num_slots
        self.max_len = max_len
        self.page_size = page_size
        self.num_pages = -(-capacity_tokens // page_size)
        self._free_slots = list(range(num_slots))
        self._pages: dict[int, int] = {}
        self._used_pages = 0
        self._on_release = on_release
        self._prefixes = prefixes

    @property
    def used_tokens(self) -> int:
        """Tokens' worth of memory that is allocated."""
        return self._used_pages * self.page_size

    @property
    def prefix_page_size(self) -> int:
        """Prefixes are shared in units of this many tokens; 0 if they are not shared."""
        return 0 if self._prefixes is None else self._prefixes.page_size

    @property
    def prefix_query_tokens(self) -> int:
        """Prompt tokens looked up in the prefix cache so far."""
        return 0 if self._prefixes is None else self._prefixes.query_tokens

    @property
    def prefix_hit_tokens(self) -> int:
        """Prompt tokens found there."""
        return 0 if self._prefixes is None else self._prefixes.hit_tokens

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def allocate(self, seq: Sequence) -> bool:
        """Allocate the lowest free slot if the whole of `seq` and one more token fit the budget now."""
        needed = self._pages_for(len(seq.token_ids) + 1)
        if not self._free_slots or self._used_pages + needed > self.num_pages:
            return False
        seq.slot = heapq.heappop(self._free_slots)
        self._pages[seq.slot] = 0
        if self._prefixes is not None:
            self._prefixes.restore(seq)
            self.reserve(seq, seq.num_computed)
        return True

    def reserve(self, seq: Sequence, num_tokens: int) -> bool:
        """Count pages for the first `num_tokens` tokens of the slot."""
        if num_tokens > self.max_len:
            return False
        extra = self._pages_for(num_tokens) - self._pages[seq.slot]
        if extra <= 0:
            return True
        if self._used_pages + extra > self.num_pages:
            return False
        self._pages[seq.slot] += extra
        self._used_pages += extra
        return True

    def commit(self, seq: Sequence) -> None:
        """Store the pages that became full, for other sequences."""
        if self._prefixes is not None:
            self._prefixes.save(seq)

    def invalidate(self, seq: Sequence) -> None:
        """Remove what was stored of `seq`."""
        if self._prefixes is not None and seq.slot >= 0:
            self._prefixes.invalidate(seq.slot)

    def release(self, seq: Sequence) -> None:
        """Free the slot and its pages."""
        num_pages = self._pages.pop(seq.slot)
        self._used_pages -= num_pages
        if self._prefixes is not None:
            self._prefixes.release(seq.slot)
        heapq.heappush(self._free_slots, seq.slot)
        self._on_release(seq.slot, min(num_pages * self.page_size, self.max_len))
        seq.slot = -1

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError unless slots and pages add up."""
        held = {seq.slot for seq in running}
        if held != set(self._pages) or held & set(self._free_slots):
            raise RuntimeError(f"slots allocated {sorted(self._pages)} but held {sorted(held)}")
        if len(held) + len(self._free_slots) != self.num_slots:
            raise RuntimeError("a slot is neither free nor allocated")
        if sum(self._pages.values()) != self._used_pages:
            raise RuntimeError(f"pages allocated {sum(self._pages.values())} but counted {self._used_pages}")
        if self._prefixes is not None:
            self._prefixes.check_integrity(held)
