"""Accounting of paged KV memory: which sequence holds which page, and which pages others may reuse. Pure Python.

A held page is private (one holder) or shared (in the prefix index, any number of holders). Only full pages enter the
index, and full pages are never written, so sharing needs no copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from handler.scheduling.page_pool import PagePool
from handler.scheduling.prefix_index import Digest, chain_digest
from handler.scheduling.sequence import Sequence

# Padding rows of a batch write their keys and values here. No block table names it, and the pool does not own it.
TRASH_PAGE = 0


class BlockManager:
    """`KVManager` over pages of `page_size` tokens, numbered from 1."""

    def __init__(self, max_len: int, capacity_tokens: int, page_size: int, digest: Digest = chain_digest) -> None:
        """Raises ValueError if `capacity_tokens` does not hold one sequence of `max_len` tokens."""
        if capacity_tokens < max_len:
            raise ValueError(f"kv_capacity_tokens must be at least max_model_len ({max_len}). Given: {capacity_tokens}")
        self.max_len = max_len
        self.page_size = page_size
        self.num_pages = -(-capacity_tokens // page_size)
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self.pool = PagePool(self.num_pages, page_size, first_page=TRASH_PAGE + 1, digest=digest)

    @property
    def prefix_page_size(self) -> int:
        """Prefixes are shared in units of this many tokens."""
        return self.page_size

    @property
    def used_tokens(self) -> int:
        """Tokens' worth of memory that is allocated; idle pages do not count."""
        return (self.num_pages - self.pool.num_available) * self.page_size

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def allocate(self, seq: Sequence) -> bool:
        """Hold the cached prefix of `seq` and set `num_computed`, if the rest and one more token fit now."""
        hits = self._match(seq)
        idle = sum(self.pool.index.is_idle(page) for page in hits)
        if self._pages_for(len(seq.token_ids) + 1) - len(hits) > self.pool.num_available - idle:
            return False
        self.pool.hold(hits)
        seq.block_table = hits
        seq.num_hashed_pages = len(hits)
        seq.num_computed = len(hits) * self.page_size
        if seq.num_preemptions == 0:
            seq.num_cached = seq.num_computed
            self.prefix_query_tokens += seq.num_prompt_tokens
            self.prefix_hit_tokens += seq.num_cached
        return True

    def _match(self, seq: Sequence) -> list[int]:
        """Cached pages for the start of `seq`, excluding its last token, whose logits are needed."""
        if not seq.request.reuse_prefix or seq.scores_prompt:
            return []
        return self.pool.index.match(seq.token_ids[:-1], seq.prefix_salt)

    def reserve(self, seq: Sequence, num_tokens: int) -> bool:
        """Allocate pages for the first `num_tokens` tokens, evicting idle ones if none is free."""
        extra = self._pages_for(num_tokens) - len(seq.block_table)
        if num_tokens > self.max_len or extra > self.pool.num_available:
            return False
        for _ in range(extra):
            page = self.pool.take()
            if page is None:
                raise RuntimeError("no page is free and none can be evicted")
            seq.block_table.append(page)
        return True

    def commit(self, seq: Sequence) -> None:
        """Put the pages that became full into the index, unless the request forbids sharing.

        If another page already holds the same tokens, `seq` switches to it and drops its own.
        """
        if not seq.request.reuse_prefix:
            return
        while (seq.num_hashed_pages + 1) * self.page_size <= seq.num_computed:
            first = seq.num_hashed_pages * self.page_size
            parent = seq.block_table[seq.num_hashed_pages - 1] if first else None
            if parent is not None and parent not in self.pool.index:
                return  # its prefix was discarded
            own = seq.block_table[seq.num_hashed_pages]
            tokens = seq.token_ids[first : first + self.page_size]
            page = self.pool.index.insert(own, tokens, parent, seq.prefix_salt)
            if page is None:
                return  # another page has the same digest
            if page != own:
                self.pool.hold([page])
                seq.block_table[seq.num_hashed_pages] = page
                self.pool.drop(own)
            seq.num_hashed_pages += 1

    def release(self, seq: Sequence) -> None:
        """Drop the pages of `seq`."""
        self.pool.drop_chain(seq.block_table)
        seq.block_table = []
        seq.num_hashed_pages = 0

    def invalidate(self, seq: Sequence) -> None:
        """Remove from the index what `seq` computed or reused, since it may be wrong."""
        if seq.block_table:
            self.pool.discard(seq.block_table[0])

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError unless every page is in one state and `running` holds exactly what is allocated."""
        held: Counter[int] = Counter()
        for seq in running:
            self._check_table(seq)
            held.update(seq.block_table)
        self.pool.check_integrity(held)

    def _check_table(self, seq: Sequence) -> None:
        table = seq.block_table
        if len(set(table)) != len(table) or TRASH_PAGE in table or len(table) < self._pages_for(seq.num_computed):
            raise RuntimeError(f"the block table {table} cannot hold {seq.num_computed} tokens")
        if seq.num_hashed_pages * self.page_size > seq.num_computed:
            raise RuntimeError("a page is in the prefix index before it is full")
