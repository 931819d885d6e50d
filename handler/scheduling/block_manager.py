"""The books of paged KV memory: who holds which page, and which pages others may reuse. Pure Python.

Every page but `TRASH_PAGE` is in exactly one state:
free (in the free list) · private (one holder) · shared (one or more holders, in the prefix index) · idle (no holder,
in the prefix index until somebody needs the memory). Only full pages are in the index and nobody writes to a full
page, so sharing needs no copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from handler.scheduling.prefix_index import Digest, PrefixIndex, chain_digest
from handler.scheduling.sequence import Sequence

# Rows that only fill up a batch write their keys and values here; no block table of a sequence names it.
TRASH_PAGE = 0


class BlockManager:
    """`KVManager` over pages of `page_size` tokens, numbered from 1."""

    def __init__(self, max_len: int, capacity_tokens: int, page_size: int, digest: Digest = chain_digest) -> None:
        if capacity_tokens < max_len:
            raise ValueError(f"kv_capacity_tokens must be at least max_model_len ({max_len}). Given: {capacity_tokens}")
        self.max_len = max_len
        self.page_size = page_size
        self.num_pages = -(-capacity_tokens // page_size)
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self._index = PrefixIndex(page_size, digest)
        self._free = list(range(self.num_pages, TRASH_PAGE, -1))
        self._refs = [0] * (self.num_pages + 1)

    @property
    def prefix_page_size(self) -> int:
        """Tokens that prefixes are shared in."""
        return self.page_size

    @property
    def used_tokens(self) -> int:
        """Tokens' worth of memory that is lent; idle pages are not."""
        return (self.num_pages - self._num_available) * self.page_size

    @property
    def _num_available(self) -> int:
        return len(self._free) + self._index.num_idle

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def admit(self, seq: Sequence) -> bool:
        """Lend the cached prefix if the rest of `seq` and one more token fit now; sets what is computed already."""
        hits = self._match(seq)
        idle = sum(self._index.is_idle(page) for page in hits)
        if self._pages_for(len(seq.token_ids) + 1) - len(hits) > self._num_available - idle:
            return False
        self._index.hold(hits)
        for page in hits:
            self._refs[page] += 1
        seq.block_table = hits
        seq.num_hashed_pages = len(hits)
        seq.num_computed = len(hits) * self.page_size
        if seq.num_preemptions == 0:
            seq.num_cached = seq.num_computed
            self.prefix_query_tokens += seq.num_prompt_tokens
            self.prefix_hit_tokens += seq.num_cached
        return True

    def _match(self, seq: Sequence) -> list[int]:
        """Cached pages for the start of `seq`, never up to its last token: that one's logits are wanted."""
        if not seq.request.reuse_prefix or seq.scores_prompt:
            return []
        return self._index.match(seq.token_ids[:-1], seq.request.cache_salt)

    def reserve(self, seq: Sequence, num_tokens: int) -> bool:
        """Lend pages for the first `num_tokens` tokens, evicting idle ones if none is free."""
        extra = self._pages_for(num_tokens) - len(seq.block_table)
        if num_tokens > self.max_len or extra > self._num_available:
            return False
        for _ in range(extra):
            seq.block_table.append(self._take())
        return True

    def _take(self) -> int:
        page = self._free.pop() if self._free else self._index.evict()
        if page is None:
            raise RuntimeError("no page is free and none can be evicted")
        self._refs[page] = 1
        return page

    def commit(self, seq: Sequence) -> None:
        """Put the pages that became full into the index, unless the request wants no part in it.

        If another page holds the same tokens by now, `seq` goes on with that one and gives its own back.
        """
        if not seq.request.reuse_prefix:
            return
        while (seq.num_hashed_pages + 1) * self.page_size <= seq.num_computed:
            first = seq.num_hashed_pages * self.page_size
            parent = seq.block_table[seq.num_hashed_pages - 1] if first else None
            if parent is not None and parent not in self._index:
                return  # what came before was discarded
            own = seq.block_table[seq.num_hashed_pages]
            tokens = seq.token_ids[first : first + self.page_size]
            page = self._index.insert(own, tokens, parent, seq.request.cache_salt)
            if page is None:
                return  # another page has the same digest
            if page != own:
                self._index.hold([page])
                self._refs[page] += 1
                seq.block_table[seq.num_hashed_pages] = page
                self._drop(own)
            seq.num_hashed_pages += 1

    def _drop(self, page: int) -> None:
        """One holder less. The last one leaves the page idle if it is in the index, else free."""
        self._refs[page] -= 1
        if self._refs[page]:
            return
        if page in self._index:
            self._index.touch([page])
        else:
            self._free.append(page)

    def release(self, seq: Sequence) -> None:
        """Take back the pages of `seq`, its last page first, so that parents become idle after their children."""
        for page in reversed(seq.block_table):
            self._drop(page)
        seq.block_table = []
        seq.num_hashed_pages = 0

    def distrust(self, seq: Sequence) -> None:
        """What `seq` computed, or got from the cache, may be wrong: nobody shall find it there any more."""
        if seq.block_table:
            self._free += self._index.discard(seq.block_table[0])

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError unless every page is in one state and `running` holds exactly what is lent."""
        held: Counter[int] = Counter()
        for seq in running:
            self._check_table(seq)
            held.update(seq.block_table)
        if held != Counter({page: refs for page, refs in enumerate(self._refs) if refs}):
            raise RuntimeError(f"pages held {dict(held)} but lent {self._refs}")
        free = set(self._free)
        if len(free) != len(self._free) or TRASH_PAGE in free:
            raise RuntimeError("a page is free twice, or the trash page is free")
        for page in range(1, self.num_pages + 1):
            states = (page in free, self._index.is_idle(page), page in held)
            if sum(states) != 1 or (page in free and page in self._index):
                raise RuntimeError(f"page {page} is (free, idle, held) = {states}")
        self._index.check_integrity()

    def _check_table(self, seq: Sequence) -> None:
        table = seq.block_table
        if len(set(table)) != len(table) or TRASH_PAGE in table or len(table) < self._pages_for(seq.num_computed):
            raise RuntimeError(f"the block table {table} cannot hold {seq.num_computed} tokens")
        if seq.num_hashed_pages * self.page_size > seq.num_computed:
            raise RuntimeError("a page is in the prefix index before it is full")
