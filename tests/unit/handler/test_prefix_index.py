"""The prefix index against a model of it that keeps whole prefixes, with good, bad and useless digests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.scheduling.prefix_index import Digest, PrefixIndex, chain_digest

PAGE = 2


def short_digest(parent: bytes, tokens: bytes) -> bytes:
    """Collides about every fourth time."""
    return chain_digest(parent, tokens)[:1].translate(bytes(i & 3 for i in range(256)))


def no_digest(_parent: bytes, _tokens: bytes) -> bytes:
    return b"same"


# What each cached page holds: its salt and all tokens from the first on.
Contents = dict[int, tuple[str, tuple[int, ...]]]


def longest(contents: Contents, ids: list[int], salt: str) -> list[tuple[str, tuple[int, ...]]]:
    """The cached prefixes of `ids`, from short to long, as far as they go without a gap."""
    found = []
    for end in range(PAGE, len(ids) + 1, PAGE):
        if (salt, tuple(ids[:end])) not in contents.values():
            break
        found.append((salt, tuple(ids[:end])))
    return found


def publish(index: PrefixIndex, contents: Contents, ids: list[int], salt: str, next_page: int) -> int:
    """Cache every full page of `ids`, as an owner would: stop where a page cannot be cached."""
    chain: list[int] = []
    for first in range(0, len(ids) - PAGE + 1, PAGE):
        parent = chain[-1] if chain else None
        page = index.insert(next_page, ids[first : first + PAGE], parent, salt)
        if page is None:
            break
        if page == next_page:
            contents[page] = (salt, tuple(ids[: first + PAGE]))
            next_page += 1
        assert contents[page] == (salt, tuple(ids[: first + PAGE]))
        chain.append(page)
    index.touch(chain)
    return next_page


@settings(max_examples=300)
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["publish", "match", "evict", "discard"]),
            st.lists(st.integers(0, 2), max_size=9),
            st.sampled_from(["", "tenant"]),
        ),
        max_size=40,
    ),
    digest=st.sampled_from([chain_digest, short_digest, no_digest]),
)
def test_only_equal_tokens_and_salt_ever_match(actions: list[tuple[str, list[int], str]], digest: Digest) -> None:
    index = PrefixIndex(PAGE, digest)
    contents: Contents = {}
    next_page = 1
    for action, ids, salt in actions:
        if action == "publish":
            next_page = publish(index, contents, ids, salt, next_page)
        elif action == "match":
            found = [contents[page] for page in index.match(ids, salt)]
            assert found == longest(contents, ids, salt)[: len(found)]
            if digest is chain_digest:
                assert found == longest(contents, ids, salt), "everything cached is found"
        elif action == "evict":
            page = index.evict()
            assert (page is None) == (not contents)
            if page is not None:
                salt_of, gone = contents.pop(page)
                assert not any(s == salt_of and t[: len(gone)] == gone for s, t in contents.values()), "not a leaf"
        elif contents:
            page = min(contents)
            salt_of, gone = contents[page]
            rest = {p for p, (s, t) in contents.items() if s == salt_of and t[: len(gone)] == gone}
            assert set(index.discard(page)) == rest
            for gone_page in rest:
                del contents[gone_page]
        assert len(index) == len(contents) == index.num_idle
        index.check_integrity()


def chain(index: PrefixIndex, pages: list[int], ids: list[int]) -> None:
    for i, page in enumerate(pages):
        parent = pages[i - 1] if i else None
        assert index.insert(page, ids[i * PAGE : (i + 1) * PAGE], parent) == page
    index.touch(pages)


def test_the_page_touched_longest_ago_goes_first_and_leaves_before_their_parents() -> None:
    index = PrefixIndex(PAGE)
    chain(index, [10, 11, 12], [1, 1, 2, 2, 3, 3])
    chain(index, [20, 21], [5, 5, 6, 6])
    index.touch(index.match([1, 1, 2, 2]))
    assert [index.evict() for _ in range(6)] == [12, 21, 20, 11, 10, None]


def test_pages_in_use_are_not_evicted() -> None:
    index = PrefixIndex(PAGE)
    chain(index, [10, 11], [1, 1, 2, 2])
    index.hold([10])
    assert [index.evict(), index.evict()] == [11, None]
    assert index.match([1, 1, 2, 2]) == [10]


def test_a_salt_is_a_world_of_its_own() -> None:
    index = PrefixIndex(PAGE)
    assert index.insert(1, [4, 4], salt="a") == 1
    assert index.match([4, 4], "a") == [1]
    assert index.match([4, 4], "b") == []
    assert index.insert(2, [4, 4], salt="b") == 2


def test_the_same_tokens_after_another_page_are_another_page() -> None:
    index = PrefixIndex(PAGE)
    chain(index, [1, 2], [4, 4, 7, 7])
    assert index.match([7, 7]) == []
    assert index.match([5, 5, 7, 7]) == []


def test_a_second_page_of_the_same_tokens_yields_to_the_first() -> None:
    index = PrefixIndex(PAGE)
    assert index.insert(1, [4, 4]) == 1
    assert index.insert(2, [4, 4]) == 1
    assert 2 not in index


def test_a_partial_page_is_not_matched_and_cannot_be_cached() -> None:
    index = PrefixIndex(4)
    with pytest.raises(ValueError, match="cannot be cached"):
        index.insert(1, [1, 2, 3])
    assert index.insert(1, [1, 2, 3, 4]) == 1
    assert index.match([1, 2, 3]) == []
    assert index.match([1, 2, 3, 4, 5]) == [1]


@pytest.mark.parametrize("parent", [1, 7])
def test_a_page_cannot_be_cached_twice_nor_after_an_unknown_one(parent: int) -> None:
    index = PrefixIndex(PAGE)
    index.insert(1, [4, 4])
    with pytest.raises(ValueError, match="cannot be cached"):
        index.insert(1 if parent == 1 else 2, [5, 5], parent)


def test_the_integrity_check_can_fail() -> None:
    index = PrefixIndex(PAGE)
    chain(index, [1, 2], [4, 4, 7, 7])
    index.hold([2])
    with pytest.raises(RuntimeError, match="in use"):
        index.check_integrity()


def test_a_chain_of_any_length_can_be_discarded() -> None:
    index = PrefixIndex(PAGE)
    pages = list(range(5000))
    chain(index, pages, [i // PAGE for i in range(PAGE * 5000)])
    assert sorted(index.discard(0)) == pages
    assert len(index) == index.num_idle == 0


def test_a_parent_is_not_evicted_before_its_child_even_if_it_was_not_held() -> None:
    index = PrefixIndex(PAGE)
    chain(index, [1], [4, 4])
    index.insert(2, [7, 7], 1)
    assert index.evict() is None
    index.touch([2])
    assert [index.evict(), index.evict()] == [2, 1]
