"""Pages of KV memory counted by reference, and the prefix index over them. Pure Python.

Every page is in exactly one state: free (in the free list), held (by one or more sequences) or idle (no holder, kept in
the prefix index until its memory is needed).
"""

from __future__ import annotations

from collections import Counter

from handler.scheduling.prefix_index import Digest, PrefixIndex, chain_digest


class PagePool:
    """`num_pages` pages of `page_size` tokens, numbered from `first_page`; the lowest free page is taken first."""

    def __init__(self, num_pages: int, page_size: int, *, first_page: int = 0, digest: Digest = chain_digest) -> None:
        self.index = PrefixIndex(page_size, digest)
        self._pages = range(first_page, first_page + num_pages)
        self._free = list(reversed(self._pages))
        self._refs: Counter[int] = Counter()

    @property
    def num_available(self) -> int:
        """Pages that `take` can give out: free and idle ones."""
        return len(self._free) + self.index.num_idle

    def take(self) -> int | None:
        """A page with one holder, evicting the least recently used idle page if none is free; None if all are held."""
        page = self._free.pop() if self._free else self.index.evict()
        if page is not None:
            self._refs[page] = 1
        return page

    def hold(self, pages: list[int]) -> None:
        """Add a holder to each of `pages`, which are in the index."""
        self.index.hold(pages)
        self._refs.update(pages)

    def drop(self, page: int) -> None:
        """Remove a holder. The last one leaves the page idle if it is in the index, else free."""
        self._refs[page] -= 1
        if self._refs[page]:
            return
        del self._refs[page]
        if page in self.index:
            self.index.touch([page])
        else:
            self._free.append(page)

    def drop_chain(self, pages: list[int]) -> None:
        """Remove a holder from each page of a sequence, the last page first: parents become idle after children."""
        for page in reversed(pages):
            self.drop(page)

    def discard(self, page: int) -> None:
        """Remove `page` and all its descendants from the index. Held ones become free once they are dropped."""
        self._free += self.index.discard(page)

    def check_integrity(self, held: Counter[int]) -> None:
        """Raise RuntimeError unless every page is in one state and `held` is the number of holders of each."""
        if held != self._refs:
            raise RuntimeError(f"pages held {dict(held)} but counted {dict(self._refs)}")
        free = set(self._free)
        if len(free) != len(self._free) or not free <= set(self._pages):
            raise RuntimeError("a page is free twice, or a free page does not exist")
        for page in self._pages:
            states = (page in free, self.index.is_idle(page), page in held)
            if sum(states) != 1 or (page in free and page in self.index):
                raise RuntimeError(f"page {page} is (free, idle, held) = {states}")
        self.index.check_integrity()
