"""Paged memory under a real scheduler and a pretended model, whose "keys" are the whole history of each token.

Whatever is shared, recycled or evicted: at each step every sequence must find its own history, under its own salt,
at every position that counts as computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.scheduling.block_manager import TRASH_PAGE, BlockManager
from handler.scheduling.prefix_index import Digest, chain_digest
from handler.scheduling.scheduler import ScheduledBatch, Scheduler, SchedulerLimits
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.seam.protocol import FinishReason
from tests.support.arrivals import MAX_LEN, Arrival, arrivals, colliding_digest, history, sequence


def make(
    num_seqs: int = 4, budget: int = 64, capacity: int = 256, page: int = 4, digest: Digest = chain_digest
) -> Scheduler:
    limits = SchedulerLimits(
        max_num_seqs=num_seqs,
        max_num_batched_tokens=budget,
        max_waiting=100,
        max_model_len=MAX_LEN,
        eos_token_ids=frozenset(),
    )
    return Scheduler(limits, BlockManager(MAX_LEN, capacity, page, digest))


def books(scheduler: Scheduler) -> BlockManager:
    assert isinstance(scheduler.kv, BlockManager)
    return scheduler.kv


@dataclass
class PretendedModel:
    """Writes each token's history where the block table says, and checks what a real one would attend to."""

    scheduler: Scheduler
    memory: dict[tuple[int, int], tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    owners: dict[tuple[int, int], Sequence] = field(default_factory=dict)

    def play(self, batch: ScheduledBatch) -> list[Sequence]:
        """One step. Returns who ended."""
        size = books(self.scheduler).page_size
        for item in batch.items:
            seq = item.seq
            for position in range(item.start, item.start + item.num_tokens):
                at = (seq.block_table[position // size], position % size)
                self.memory[at] = history(seq, position)
                self.owners[at] = seq
        for item in batch.items:
            seq = item.seq
            for position in range(item.start + item.num_tokens):
                at = (seq.block_table[position // size], position % size)
                assert self.memory[at] == history(seq, position)
                assert seq.request.reuse_prefix or self.owners[at] is seq
                assert self.owners[at].request.reuse_prefix or self.owners[at] is seq
        for item in batch.items:
            self.scheduler.advance(item)
        return [
            item.seq
            for item in batch.items
            if item.seq.num_uncomputed == 0
            and self.scheduler.append_token(item.seq, len(item.seq.token_ids) % 3) is not None
        ]

    def run(self, *seqs: Sequence) -> None:
        """Queue these and step until nothing is left."""
        for seq in seqs:
            self.scheduler.add(seq)
        while not self.scheduler.idle:
            self.play(self.scheduler.schedule())
            self.scheduler.check_integrity()


@settings(max_examples=100)
@given(
    load=arrivals(),
    num_seqs=st.integers(1, 6),
    budget=st.integers(1, 40),
    capacity=st.integers(MAX_LEN, 200),
    page=st.sampled_from([1, 4, 8, 32]),
    digest=st.sampled_from([chain_digest, chain_digest, colliding_digest]),
)
def test_every_sequence_finds_its_own_history_and_all_memory_comes_back(
    load: list[Arrival], num_seqs: int, budget: int, capacity: int, page: int, digest: Digest
) -> None:
    scheduler = make(num_seqs, budget, capacity, page, digest)
    model = PretendedModel(scheduler)
    for step in range(3000):
        for arrival in load:
            if arrival.at == step:
                scheduler.add(arrival.seq)
            if arrival.end == step and arrival.at <= step:
                if arrival.invalidated:
                    books(scheduler).invalidate(arrival.seq)
                scheduler.finish(arrival.seq, FinishReason.ABORTED)
        batch = scheduler.schedule()
        scheduler.check_integrity()
        assert batch.items or scheduler.idle, "work is waiting and nothing is scheduled"
        model.play(batch)
        scheduler.check_integrity()
        if step > 25 and scheduler.idle:
            break
    assert scheduler.idle
    assert scheduler.kv.used_tokens == 0
    assert all(arrival.seq.status is SequenceStatus.FINISHED for arrival in load)
    assert 0 <= books(scheduler).prefix_hit_tokens <= books(scheduler).prefix_query_tokens


PROMPT = [i % 7 for i in range(21)]


@pytest.fixture
def model() -> PretendedModel:
    return PretendedModel(make())


def test_a_second_equal_prompt_computes_only_what_is_not_in_full_pages(model: PretendedModel) -> None:
    model.run(sequence("a", PROMPT, 3))
    again = sequence("b", PROMPT, 3)
    model.scheduler.add(again)
    batch = model.scheduler.schedule()
    assert [(item.start, item.num_tokens) for item in batch.items] == [(20, 1)]
    assert again.num_cached == 20
    kv = books(model.scheduler)
    assert (kv.prefix_query_tokens, kv.prefix_hit_tokens) == (42, 20)


def test_the_last_token_is_always_computed(model: PretendedModel) -> None:
    model.run(sequence("a", PROMPT[:20], 3))
    again = sequence("b", PROMPT[:20], 3)
    model.run(again)
    assert again.num_cached == 16, "the fifth page is cached too, but holds the last token"


def test_output_is_reused_by_the_next_turn_of_a_conversation(model: PretendedModel) -> None:
    first = sequence("a", PROMPT, 12)
    model.run(first)
    second = sequence("b", [*first.token_ids, 5, 5, 5], 3)
    model.run(second)
    assert second.num_cached == 32, "33 tokens were known, the last of them was never run"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (sequence("a", PROMPT, 3, salt="x"), sequence("b", PROMPT, 3, salt="y")),
        (sequence("a", PROMPT, 3, reuse=False), sequence("b", PROMPT, 3)),
        (sequence("a", PROMPT, 3), sequence("b", PROMPT, 3, reuse=False)),
        (sequence("a", PROMPT, 3), sequence("b", PROMPT, 3, scored=True)),
        (sequence("a", PROMPT, 3), sequence("b", [6, *PROMPT[1:]], 3)),
    ],
    ids=["salt", "writer opts out", "reader opts out", "prompt is scored", "first token differs"],
)
def test_what_is_not_shared(first: Sequence, second: Sequence, model: PretendedModel) -> None:
    model.run(first)
    model.run(second)
    assert second.num_cached == 0


def test_equal_prompts_that_run_at_once_end_up_on_the_same_pages(model: PretendedModel) -> None:
    # Prompts that are scored are computed each, whatever the cache holds.
    twins = [sequence(str(i), PROMPT, 4, scored=True) for i in range(3)]
    for seq in twins:
        model.scheduler.add(seq)
    model.play(model.scheduler.schedule())
    model.scheduler.check_integrity()
    assert all(seq.block_table[:5] == twins[0].block_table[:5] for seq in twins)
    assert len({seq.block_table[5] for seq in twins}) == 3
    assert model.scheduler.kv.used_tokens == (5 + 3) * 4
    model.run()


def test_idle_pages_make_room_and_the_prompt_used_last_survives() -> None:
    model = PretendedModel(make(capacity=64))
    for salt in "abc":
        model.run(sequence(salt, PROMPT, 3, salt=salt))
    model.run(sequence("again", PROMPT, 3, salt="a"))
    model.run(sequence("big", [3] * 36, 3))
    found = [sequence(salt, PROMPT, 1, salt=salt) for salt in "abc"]
    for seq in found[:1]:
        model.run(seq)
    assert found[0].num_cached > 0
    assert len(books(model.scheduler).pool.index.match(PROMPT, "b")) == 0


def test_pages_about_to_be_reused_are_no_room_for_the_rest() -> None:
    model = PretendedModel(make(capacity=64))
    model.run(sequence("a", PROMPT, 3))
    model.scheduler.add(sequence("big", [3] * 43, 3))
    model.play(model.scheduler.schedule())
    again = sequence("b", [*PROMPT, *[4] * 9], 3)
    assert not model.scheduler.kv.allocate(again), "5 of 16 pages are idle, and b wants these and 3 more"
    assert (again.block_table, again.num_computed) == ([], 0)
    model.scheduler.check_integrity()
    model.run(again)
    assert again.finish_reason is FinishReason.LENGTH


def test_a_preempted_sequence_finds_its_own_pages_again() -> None:
    model = PretendedModel(make(num_seqs=2, capacity=64))
    old, new = sequence("old", PROMPT, 30, salt="x"), sequence("new", PROMPT, 30)
    model.scheduler.add(old)
    model.scheduler.add(new)
    while new.num_preemptions == 0:
        model.play(model.scheduler.schedule())
        model.scheduler.check_integrity()
    assert old.num_preemptions == 0
    assert new.num_computed == 0
    model.run()
    assert len(new.token_ids) == len(old.token_ids) == 51
    assert new.num_cached == 0, "the client sees the count of the first start"


def test_pages_of_a_failed_sequence_are_not_found_again(model: PretendedModel) -> None:
    seq = sequence("a", PROMPT, 30)
    model.scheduler.add(seq)
    for _ in range(8):
        model.play(model.scheduler.schedule())
    books(model.scheduler).invalidate(seq)
    model.scheduler.finish(seq, FinishReason.ABORTED)
    model.scheduler.check_integrity()
    again = sequence("b", PROMPT, 3)
    model.run(again)
    assert again.num_cached == 0


def test_capacity_below_the_longest_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        BlockManager(64, 63, 8)


def broken_books() -> Iterator[tuple[str, Scheduler]]:
    """Schedulers whose books have been tampered with, one way each."""
    for what in ("page lost", "page held twice", "trash page held", "table too short", "page free and held", "hashed"):
        scheduler = make()
        seq = sequence("a", PROMPT, 4)
        scheduler.add(seq)
        for item in scheduler.schedule().items:
            scheduler.advance(item)
        kv = books(scheduler)
        if what == "page lost":
            kv.pool._free.pop()
        elif what == "page held twice":
            kv.pool._refs[seq.block_table[0]] += 1
        elif what == "trash page held":
            seq.block_table[-1] = TRASH_PAGE
        elif what == "table too short":
            kv.pool.drop(seq.block_table.pop())
        elif what == "page free and held":
            kv.pool._free[0] = seq.block_table[-1]
        else:
            seq.num_hashed_pages += 1
        yield what, scheduler


@pytest.mark.parametrize(("what", "scheduler"), list(broken_books()))
def test_the_integrity_check_can_fail(what: str, scheduler: Scheduler) -> None:
    with pytest.raises(RuntimeError):
        scheduler.check_integrity()
