"""Choices of one request share its prompt: one computes it, the others find it, over both kinds of memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handler.scheduling.block_manager import BlockManager
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import Scheduler, SchedulerLimits
from handler.scheduling.sequence import Sequence
from handler.scheduling.slot_manager import SlotManager
from handler.scheduling.slot_prefixes import SlotPrefixes
from tests.support.arrivals import MAX_LEN, sequence

PAGE = 4
PROMPT = [i % 7 for i in range(21)]
Books = Callable[[], KVManager]


class Nothing:
    """Moves no pages."""

    def save_page(self, slot: int, start: int, page: int) -> None: ...

    def restore_pages(self, pages: list[int], slot: int) -> None: ...


BOOKS: dict[str, Books] = {
    "slots": lambda: SlotManager(8, MAX_LEN, 1024, PAGE, prefixes=SlotPrefixes(64, PAGE, Nothing())),
    "pages": lambda: BlockManager(MAX_LEN, 1024, PAGE),
}
ALONE: Books = lambda: SlotManager(8, MAX_LEN, 1024, PAGE)  # noqa: E731


def steps(kv: KVManager, seqs: list[Sequence], budget: int = 100) -> list[list[tuple[str, int]]]:
    """Who runs how many tokens, step by step, until each has its first token."""
    scheduler = Scheduler(SchedulerLimits(8, budget, 100, MAX_LEN, frozenset()), kv)
    for seq in seqs:
        scheduler.add(seq)
    found = []
    while any(seq.num_output_tokens == 0 for seq in seqs):
        batch = scheduler.schedule()
        found.append([(item.seq.request_id, item.num_tokens) for item in batch.items])
        for item in batch.items:
            scheduler.advance(item)
            if item.samples:
                scheduler.append_token(item.seq, 9)
        scheduler.check_integrity()
    return found


@pytest.mark.parametrize("books", BOOKS.values(), ids=BOOKS)
def test_one_computes_the_prompt_of_all(books: Books) -> None:
    found = steps(books(), [sequence(name, PROMPT, 5) for name in "abcd"])
    assert found == [[("a", 21)], [("a", 1), ("b", 1), ("c", 1), ("d", 1)]]


@pytest.mark.parametrize("books", BOOKS.values(), ids=BOOKS)
def test_a_prompt_in_chunks_is_waited_for_to_its_end(books: Books) -> None:
    found = steps(books(), [sequence(name, PROMPT, 5) for name in "ab"], budget=8)
    assert found == [[("a", 8)], [("a", 8)], [("a", 5)], [("a", 1), ("b", 1)]]


@pytest.mark.parametrize("books", BOOKS.values(), ids=BOOKS)
@pytest.mark.parametrize(
    "second",
    [
        sequence("b", PROMPT, 5, salt="another"),
        sequence("b", PROMPT, 5, reuse=False),
        sequence("b", PROMPT, 5, scored=True),
        sequence("b", [*PROMPT[:8], *[5] * 13], 5),
        sequence("b", [6, *PROMPT[1:]], 5),
    ],
    ids=["salt", "opts out", "prompt is scored", "less than half is common", "first token differs"],
)
def test_who_has_nothing_to_gain_does_not_wait(books: Books, second: Sequence) -> None:
    assert steps(books(), [sequence("a", PROMPT, 5), _again(second)]) == [[("a", 21), ("b", 21)]]


@pytest.mark.parametrize("books", BOOKS.values(), ids=BOOKS)
def test_what_is_there_already_is_not_waited_for(books: Books) -> None:
    """The older prompt goes on with tokens of its own."""
    found = steps(books(), [sequence("a", [*PROMPT[:20], *[5] * 16], 5), sequence("b", PROMPT, 5)], budget=20)
    assert found == [[("a", 20)], [("a", 16), ("b", 1)]]


def test_where_prefixes_are_not_shared_nobody_waits() -> None:
    assert steps(ALONE(), [sequence(name, PROMPT, 5) for name in "ab"]) == [[("a", 21), ("b", 21)]]


def test_a_writer_that_opts_out_is_not_waited_for() -> None:
    found = steps(BOOKS["slots"](), [sequence("a", PROMPT, 5, reuse=False), sequence("b", PROMPT, 5)])
    assert found == [[("a", 21), ("b", 21)]]


def _again(seq: Sequence) -> Sequence:
    """A fresh sequence of the same request: parameters are made once for all tests."""
    return Sequence(seq.request, seq.worker, seq.arrival_s, seq.deadline_s)
