"""Which full pages of tokens are cached, found by content. Pure Python; it owns no memory and counts no holders.

Pages form trees. A page's key is its parent page (the salt for the first page of a prompt) and its own token ids. A
digest of the key finds the page; parent, salt and token ids are then compared, so a digest alone is never trusted. A
parent stays as long as its children, so equal keys mean equal tokens from the first one on.

The owner of the memory reports which pages are in use: a page is inserted in use, `touch` makes it idle (evictable,
least recently touched first), and `hold` puts it back into use. The holder of a page also holds its parents.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

# (digest of the parent or of the salt, bytes of the page's token ids) -> digest
Digest = Callable[[bytes, bytes], bytes]


def chain_digest(parent: bytes, tokens: bytes) -> bytes:
    """16 bytes of blake2b over the parent's digest and the page's tokens."""
    return blake2b(tokens, digest_size=16, key=parent).digest()


@dataclass(slots=True, eq=False)
class _Entry:
    """One cached page. For first pages `parent` is None and `salt` is part of the key; others inherit the salt."""

    digest: bytes
    tokens: bytes
    parent: int | None
    salt: str
    children: set[int] = field(default_factory=set)


class PrefixIndex:
    """Finds cached pages by salt and token ids, and evicts idle ones, least recently used first."""

    def __init__(self, page_size: int, digest: Digest = chain_digest) -> None:
        self.page_size = page_size
        self._digest = digest
        self._entries: dict[int, _Entry] = {}
        self._by_digest: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, page: int) -> bool:
        return page in self._entries

    @property
    def num_idle(self) -> int:
        """Number of pages that `evict` can return."""
        return len(self._idle)

    def is_idle(self, page: int) -> bool:
        """True if the page is cached and has no holder."""
        return page in self._idle

    def match(self, token_ids: Sequence[int], salt: str = "") -> list[int]:
        """The cached pages that hold the start of `token_ids`, whole pages only. Changes nothing.

        Omit tokens that must be computed anyway: `index.match(ids[: len(ids) - 1])`.
        """
        pages: list[int] = []
        for first in range(0, len(token_ids) - self.page_size + 1, self.page_size):
            parent = pages[-1] if pages else None
            page = self._find(token_ids[first : first + self.page_size], parent, salt)
            if page is None:
                break
            pages.append(page)
        return pages

    def insert(self, page: int, token_ids: Sequence[int], parent: int | None = None, salt: str = "") -> int | None:
        """Cache `page`, which holds the `page_size` tokens that follow `parent`'s. It is in use from now on.

        Returns `page`; or the page that is already cached for these tokens (`page` is not cached, the caller frees
        it); or None if another page has the same digest (`page` is not cached).
        Raises ValueError if `page` is cached already, is not full, or its parent is not cached.
        """
        if page in self._entries or len(token_ids) != self.page_size or (parent is not None and parent not in self):
            raise ValueError(f"page {page} after {parent} cannot be cached")
        tokens = _as_bytes(token_ids)
        digest = self._digest(self._root(parent, salt), tokens)
        if digest in self._by_digest:
            return self._find(token_ids, parent, salt)
        self._by_digest[digest] = page
        self._entries[page] = _Entry(digest, tokens, parent, salt)
        if parent is not None:
            self._entries[parent].children.add(page)
        return page

    def hold(self, pages: Sequence[int]) -> None:
        """Mark pages as in use: they are not evicted until they are touched again."""
        for page in pages:
            self._idle.pop(page, None)

    def touch(self, pages: Sequence[int]) -> None:
        """Mark pages, in the order of `match`, as idle and most recently used; parents outlive children."""
        for page in reversed(pages):
            if page not in self._entries:
                raise ValueError(f"page {page} is not cached")
            self._idle[page] = None
            self._idle.move_to_end(page)

    def evict(self) -> int | None:
        """Remove and return the least recently touched idle page that has no children; None if there is none."""
        for page in self._idle:
            if not self._entries[page].children:
                self._remove(page)
                return page
        return None

    def discard(self, page: int) -> list[int]:
        """Remove `page` and all its descendants, in use or not. Returns those that were idle."""
        subtree = [page] if page in self._entries else []
        for member in subtree:  # grows during iteration
            subtree += self._entries[member].children
        idle = [member for member in subtree if member in self._idle]
        for member in reversed(subtree):
            self._remove(member)
        return idle

    def check_integrity(self) -> None:
        """Raise RuntimeError unless entries, digests, parents and idle pages agree."""
        if {entry.digest: page for page, entry in self._entries.items()} != self._by_digest:
            raise RuntimeError("digests and pages of the prefix index disagree")
        if not set(self._idle) <= set(self._entries):
            raise RuntimeError("an idle page is not cached")
        for page, entry in self._entries.items():
            siblings = None if entry.parent is None else self._entries[entry.parent].children
            if siblings is not None and page not in siblings:
                raise RuntimeError(f"cached page {page} is not among its parent's children")
            if any(self._entries[child].parent != page for child in entry.children):
                raise RuntimeError(f"a child of cached page {page} has another parent")
            if entry.parent is not None and entry.parent in self._idle and page not in self._idle:
                raise RuntimeError(f"cached page {page} is in use and its parent is not")

    def _find(self, token_ids: Sequence[int], parent: int | None, salt: str) -> int | None:
        tokens = _as_bytes(token_ids)
        page = self._by_digest.get(self._digest(self._root(parent, salt), tokens))
        if page is None:
            return None
        entry = self._entries[page]
        same = entry.tokens == tokens and entry.parent == parent and (parent is not None or entry.salt == salt)
        return page if same else None

    def _root(self, parent: int | None, salt: str) -> bytes:
        if parent is not None:
            return self._entries[parent].digest
        return blake2b(salt.encode(), digest_size=16, person=b"salt").digest()

    def _remove(self, page: int) -> None:
        entry = self._entries.pop(page)
        del self._by_digest[entry.digest]
        self._idle.pop(page, None)
        if entry.parent is not None:
            self._entries[entry.parent].children.discard(page)


def _as_bytes(token_ids: Sequence[int]) -> bytes:
    return array("q", token_ids).tobytes()
