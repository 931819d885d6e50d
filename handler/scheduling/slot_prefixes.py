"""Prefix reuse beside slots: full pages are copied from a slot into a store, and from there into other slots.

A slot is contiguous, so that a batch is one view; it cannot share memory. Copying a page costs some microseconds,
computing its tokens costs milliseconds each. Pure Python: the copying is done by a `PageMover`.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from handler.scheduling.prefix_index import PrefixIndex
from handler.scheduling.sequence import Sequence


class PageMover(Protocol):
    """Copies keys and values of all layers between slots and the page store."""

    def save_page(self, slot: int, start: int, page: int) -> None:
        """Copy `page_size` tokens of `slot`, from position `start` on, into `page`."""

    def restore_pages(self, pages: list[int], slot: int) -> None:
        """Copy `pages` to the beginning of `slot`, one after the other."""


class SlotPrefixes:
    """The books of the page store. A page that a running sequence saved or was given is not evicted meanwhile."""

    def __init__(self, num_pages: int, page_size: int, mover: PageMover) -> None:
        self.page_size = page_size
        self.query_tokens = 0
        self.hit_tokens = 0
        self._mover = mover
        self._index = PrefixIndex(page_size)
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_pages = num_pages
        self._refs: Counter[int] = Counter()
        self._chains: dict[int, list[int]] = {}

    def restore(self, seq: Sequence) -> None:
        """Fill the slot of `seq` with what is stored of its beginning; sets what is computed already.

        The last token is never restored: its logits are wanted. Nor is a prompt whose log-probabilities are wanted.
        """
        chain: list[int] = []
        if seq.request.reuse_prefix and not seq.scores_prompt:
            chain = self._index.match(seq.token_ids[:-1], seq.request.cache_salt)
        try:
            if chain:
                self._mover.restore_pages(chain, seq.slot)
        except (RuntimeError, MemoryError):  # torch has no memory left to copy with; the tokens are computed instead
            chain = []
        self._chains[seq.slot] = chain
        self._hold(chain)
        seq.num_computed = len(chain) * self.page_size
        if seq.num_preemptions == 0:
            seq.num_cached = seq.num_computed
            self.query_tokens += seq.num_prompt_tokens
            self.hit_tokens += seq.num_cached

    def save(self, seq: Sequence) -> None:
        """Store the pages of `seq` that became full. Stops, for good, when no page can be had."""
        chain = self._chains[seq.slot]
        while seq.request.reuse_prefix and (len(chain) + 1) * self.page_size <= seq.num_computed:
            if chain and chain[-1] not in self._index:
                return  # what came before was distrusted by another sequence that has it
            first = len(chain) * self.page_size
            own = self._free.pop() if self._free else self._index.evict()
            if own is None:
                return
            tokens = seq.token_ids[first : first + self.page_size]
            page = self._index.insert(own, tokens, chain[-1] if chain else None, seq.request.cache_salt)
            if page == own:
                self._fill(page, seq.slot, first)
            else:
                self._free.append(own)
            if page is None:
                return
            self._hold([page])
            chain.append(page)

    def _fill(self, page: int, slot: int, first: int) -> None:
        """Copy into a page that is in the index already; if that fails it must not stay there."""
        try:
            self._mover.save_page(slot, first, page)
        except BaseException:
            self._index.discard(page)
            self._free.append(page)
            raise

    def _hold(self, pages: list[int]) -> None:
        self._index.hold(pages)
        self._refs.update(pages)

    def release(self, slot: int) -> None:
        """The sequence in `slot` is gone; its pages stay stored until the room is needed."""
        for page in reversed(self._chains.pop(slot)):
            self._refs[page] -= 1
            if not self._refs[page]:
                del self._refs[page]
                if page in self._index:
                    self._index.touch([page])
                else:
                    self._free.append(page)  # distrusted while it was held

    def distrust(self, slot: int) -> None:
        """What the sequence in `slot` computed or was given may be wrong: forget it and all that follows it."""
        chain = self._chains[slot]
        if chain:
            self._free += self._index.discard(chain[0])

    def check_integrity(self, slots: set[int]) -> None:
        """Raise RuntimeError unless every page is free, idle or held, and exactly `slots` have a chain."""
        if slots != set(self._chains):
            raise RuntimeError(f"slots {sorted(slots)} run but {sorted(self._chains)} have a chain")
        held = Counter(page for chain in self._chains.values() for page in chain)
        if held != self._refs:
            raise RuntimeError(f"pages held {dict(held)} but counted {dict(self._refs)}")
        free = set(self._free)
        if len(free) != len(self._free):
            raise RuntimeError("a stored page is free twice")
        for page in range(self._num_pages):
            states = (page in free, self._index.is_idle(page), page in held)
            if sum(states) != 1:
                raise RuntimeError(f"stored page {page} is (free, idle, held) = {states}")
        self._index.check_integrity()
