"""Prefix reuse for slots: full pages are copied from a slot into a store, and from the store into other slots.

A slot is contiguous so that a batch is one view; it cannot share memory. Copying a page takes microseconds, computing
its tokens takes milliseconds each. Pure Python: a `PageMover` does the copying.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from handler.scheduling.page_pool import PagePool
from handler.scheduling.prefix_index import Digest, chain_digest
from handler.scheduling.sequence import Sequence


class PageMover(Protocol):
    """Copies keys and values of all layers between slots and the page store."""

    def save_page(self, slot: int, start: int, page: int) -> None:
        """Copy `page_size` tokens of `slot`, starting at position `start`, into `page`."""

    def restore_pages(self, pages: list[int], slot: int) -> None:
        """Copy `pages`, in order, to the beginning of `slot`."""


class SlotPrefixes:
    """Accounting of the page store. Pages that a running sequence saved or restored are not evicted."""

    def __init__(self, num_pages: int, page_size: int, mover: PageMover, digest: Digest = chain_digest) -> None:
        self.page_size = page_size
        self.query_tokens = 0
        self.hit_tokens = 0
        self._mover = mover
        self._pool = PagePool(num_pages, page_size, digest=digest)
        self._chains: dict[int, list[int]] = {}

    def restore(self, seq: Sequence) -> None:
        """Copy the stored prefix of `seq` into its slot and set `num_computed`.

        Never the last token, whose logits are needed, nor a prompt whose log-probabilities are requested.
        """
        chain: list[int] = []
        if seq.request.reuse_prefix and not seq.scores_prompt:
            chain = self._pool.index.match(seq.token_ids[:-1], seq.prefix_salt)
        try:
            if chain:
                self._mover.restore_pages(chain, seq.slot)
        except (RuntimeError, MemoryError):  # torch is out of memory for the copy; the tokens are computed instead
            chain = []
        self._chains[seq.slot] = chain
        self._pool.hold(chain)
        seq.num_computed = len(chain) * self.page_size
        if seq.num_preemptions == 0:
            seq.num_cached = seq.num_computed
            self.query_tokens += seq.num_prompt_tokens
            self.hit_tokens += seq.num_cached

    def save(self, seq: Sequence) -> None:
        """Store the pages of `seq` that became full, as long as a page is available."""
        chain = self._chains[seq.slot]
        while seq.request.reuse_prefix and (len(chain) + 1) * self.page_size <= seq.num_computed:
            if chain and chain[-1] not in self._pool.index:
                return  # another sequence that shares the prefix invalidated it
            own = self._pool.take()
            if own is None:
                return
            first = len(chain) * self.page_size
            tokens = seq.token_ids[first : first + self.page_size]
            page = self._pool.index.insert(own, tokens, chain[-1] if chain else None, seq.prefix_salt)
            if page == own:
                self._fill(page, seq.slot, first)
            else:
                self._pool.drop(own)
                if page is None:
                    return
                self._pool.hold([page])
            chain.append(page)

    def _fill(self, page: int, slot: int, first: int) -> None:
        """Copy into a page that is in the index already; remove it from there if that fails."""
        try:
            self._mover.save_page(slot, first, page)
        except BaseException:
            self._pool.discard(page)
            self._pool.drop(page)
            raise

    def release(self, slot: int) -> None:
        """Drop the pages of the sequence in `slot`; they stay stored until their memory is needed."""
        self._pool.drop_chain(self._chains.pop(slot))

    def invalidate(self, slot: int) -> None:
        """Remove from the index what the sequence in `slot` computed or restored, and all that follows it."""
        chain = self._chains[slot]
        if chain:
            self._pool.discard(chain[0])

    def check_integrity(self, slots: set[int]) -> None:
        """Raise RuntimeError unless every page is free, idle or held, and exactly `slots` have a chain."""
        if slots != set(self._chains):
            raise RuntimeError(f"slots {sorted(slots)} run but {sorted(self._chains)} have a chain")
        self._pool.check_integrity(Counter(page for chain in self._chains.values() for page in chain))
