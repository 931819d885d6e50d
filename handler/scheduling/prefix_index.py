"""Which full pages of tokens are cached, found by content. Pure Python; it owns no memory and counts no holders.

Pages form trees: a page's place is its parent page (for the first page of a prompt: the salt) and its own token ids.
A digest of that finds it; then parent, salt and token ids are compared, so a digest is never trusted alone. A page's
parent stays as long as the page does, hence equal place means equal tokens from the first one on.

The owner of the memory says which pages are in use: a page is inserted in use, `touch` makes it idle (evictable,
least recently touched first), `hold` takes it into use again. Whoever holds a page holds its parents too.
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
    """One cached page. `parent` is None and `salt` counts for first pages; else the parent carries the salt."""

    digest: bytes
    tokens: bytes
    parent: int | None
    salt: str
    children: set[int] = field(default_factory=set)


class PrefixIndex:
    """Finds cached pages by salt and token ids, and knows which idle one to give up first."""

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
        """Pages that `evict` can give up, one after the other."""
        return len(self._idle)

    def is_idle(self, page: int) -> bool:
        """True if the page is cached and nobody holds it."""
        return page in self._idle

    def match(self, token_ids: Sequence[int], salt: str = "") -> list[int]:
        """The cached pages that hold the start of `token_ids`, whole pages only. Changes nothing.

        Leave off what must be computed in any case: `index.match(ids[: len(ids) - 1])`.
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
        """Say that `page` holds the `page_size` tokens that follow `parent`'s; it is in use from now on.

        Returns the page that stands for these tokens: `page`, or the one that already did (then `page` is not
        cached and is the caller's to free), or None if another page has the same digest (`page` is not cached).
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
        """These pages are in use: they are not evicted until they are touched again."""
        for page in pages:
            self._idle.pop(page, None)

    def touch(self, pages: Sequence[int]) -> None:
        """These pages, in the order of `match`, are idle and the most recently used; parents outlive children."""
        for page in reversed(pages):
            if page not in self._entries:
                raise ValueError(f"page {page} is not cached")
            self._idle[page] = None
            self._idle.move_to_end(page)

    def evict(self) -> int | None:
        """Forget the idle page that was touched longest ago and that no other page follows; None if there is none."""
        for page in self._idle:
            if not self._entries[page].children:
                self._remove(page)
                return page
        return None

    def discard(self, page: int) -> list[int]:
        """Forget `page` and all that follows it, in use or not. Returns those of them that were idle."""
        family = [page] if page in self._entries else []
        for member in family:  # grows while it is walked
            family += self._entries[member].children
        idle = [member for member in family if member in self._idle]
        for member in reversed(family):
            self._remove(member)
        return idle

    def check_integrity(self) -> None:
        """Raise RuntimeError unless every page is found where it was put."""
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
