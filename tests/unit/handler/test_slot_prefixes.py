"""Slots with a store of pages, the memory of every CPU engine, under a real scheduler and a pretended model.

Its "keys" are the whole history of each token. Whatever is stored, copied, evicted or fails to be copied: at each step
every sequence must find its own history, under its own salt, at every position that counts as computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.scheduling.prefix_index import Digest, chain_digest
from handler.scheduling.scheduler import ScheduledBatch, Scheduler, SchedulerLimits
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.scheduling.slot_manager import SlotManager
from handler.scheduling.slot_prefixes import SlotPrefixes
from handler.seam.protocol import FinishReason
from tests.support.arrivals import MAX_LEN, Arrival, arrivals, colliding_digest, history, sequence

# The history of a token, and who computed it.
Key = tuple[tuple[str, tuple[int, ...]], Sequence]


@dataclass
class Memory:
    """What `SlotCache` holds, and the `PageMover` it is. Every `fails`-th restoring runs out of memory, 0 for none."""

    page_size: int
    fails: int = 0
    slots: dict[int, dict[int, Key]] = field(default_factory=dict)
    pages: dict[int, list[Key]] = field(default_factory=dict)
    num_restored: int = 0

    def save_page(self, slot: int, start: int, page: int) -> None:
        self.pages[page] = [self.slots[slot][start + i] for i in range(self.page_size)]

    def restore_pages(self, pages: list[int], slot: int) -> None:
        self.num_restored += 1
        if self.fails and self.num_restored % self.fails == 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        keys = [key for page in pages for key in self.pages[page]]
        self.slots[slot] = dict(enumerate(keys))

    def erase(self, slot: int, num_tokens: int) -> None:
        assert all(position < num_tokens for position in self.slots.get(slot, ())), "written beyond what was counted"
        self.slots[slot] = {}


@dataclass
class PretendedModel:
    """Writes each token's history into its slot, and checks what a real one would attend to."""

    scheduler: Scheduler
    memory: Memory

    def play(self, batch: ScheduledBatch) -> None:
        """One step."""
        for item in batch.items:
            slot = self.memory.slots.setdefault(item.seq.slot, {})
            for position in range(item.start, item.start + item.num_tokens):
                slot[position] = (history(item.seq, position), item.seq)
            for position in range(item.start + item.num_tokens):
                found, owner = slot[position]
                assert found == history(item.seq, position)
                assert owner is item.seq or (owner.request.reuse_prefix and item.seq.request.reuse_prefix)
        for item in batch.items:
            self.scheduler.advance(item)
            if item.seq.num_uncomputed == 0:
                self.scheduler.append_token(item.seq, len(item.seq.token_ids) % 3)

    def run(self, *seqs: Sequence) -> None:
        """Queue these and step until nothing is left."""
        for seq in seqs:
            self.scheduler.add(seq)
        while not self.scheduler.idle:
            self.play(self.scheduler.schedule())
            self.scheduler.check_integrity()


def make(
    num_seqs: int = 4,
    budget: int = 64,
    capacity: int = 256,
    page: int = 4,
    num_stored: int = 64,
    digest: Digest = chain_digest,
    fails: int = 0,
) -> PretendedModel:
    memory = Memory(page, fails)
    prefixes = SlotPrefixes(num_stored, page, memory, digest)
    kv = SlotManager(num_seqs, MAX_LEN, capacity, page, memory.erase, prefixes)
    limits = SchedulerLimits(num_seqs, budget, 100, MAX_LEN, frozenset())
    return PretendedModel(Scheduler(limits, kv), memory)


@settings(max_examples=150)
@given(
    load=arrivals(),
    num_seqs=st.integers(1, 6),
    budget=st.integers(1, 40),
    capacity=st.integers(MAX_LEN, 200),
    page=st.sampled_from([1, 4, 8, 32]),
    num_stored=st.integers(1, 40),
    digest=st.sampled_from([chain_digest, chain_digest, colliding_digest]),
    fails=st.sampled_from([0, 0, 2, 3]),
)
def test_every_sequence_finds_its_own_history_and_all_memory_comes_back(
    load: list[Arrival],
    num_seqs: int,
    budget: int,
    capacity: int,
    page: int,
    num_stored: int,
    digest: Digest,
    fails: int,
) -> None:
    model = make(num_seqs, budget, capacity, page, num_stored, digest, fails)
    scheduler = model.scheduler
    for step in range(3000):
        for arrival in load:
            if arrival.at == step:
                scheduler.add(arrival.seq)
            if arrival.end == step and arrival.at <= step:
                if arrival.invalidated:
                    scheduler.kv.invalidate(arrival.seq)
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
    assert 0 <= scheduler.kv.prefix_hit_tokens <= scheduler.kv.prefix_query_tokens


PROMPT = [i % 7 for i in range(21)]


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
def test_what_is_not_shared(first: Sequence, second: Sequence) -> None:
    model = make()
    model.run(first)
    model.run(second)
    assert second.num_cached == 0


def test_a_second_equal_prompt_computes_only_what_is_not_in_full_pages() -> None:
    model = make()
    model.run(sequence("a", PROMPT, 3))
    again = sequence("b", PROMPT, 3)
    model.scheduler.add(again)
    batch = model.scheduler.schedule()
    assert [(item.start, item.num_tokens) for item in batch.items] == [(20, 1)]
    kv = model.scheduler.kv
    assert (again.num_cached, kv.prefix_query_tokens, kv.prefix_hit_tokens) == (20, 42, 20)


def test_the_prompt_used_last_survives_in_a_small_store() -> None:
    model = make(num_stored=12)
    for salt in "ab":
        model.run(sequence(salt, PROMPT, 1, salt=salt))
    model.run(sequence("again", PROMPT, 1, salt="a"))
    model.run(sequence("new", PROMPT, 1, salt="c"))
    found = {salt: sequence(salt, PROMPT, 1, salt=salt) for salt in "ab"}
    model.run(found["a"])
    model.run(found["b"])
    assert found["a"].num_cached == 20
    assert found["b"].num_cached < 20


def test_a_sequence_outlives_the_invalidation_of_what_it_shares() -> None:
    model = make()
    failing, healthy = sequence("0", [1] * 20, 9), sequence("1", [1] * 8 + [2] * 12, 9)
    model.scheduler.add(failing)
    model.play(model.scheduler.schedule())
    model.scheduler.add(healthy)
    model.play(model.scheduler.schedule())
    assert healthy.num_cached == 8
    model.scheduler.kv.invalidate(failing)
    model.scheduler.finish(failing, FinishReason.ABORTED)
    model.scheduler.check_integrity()
    model.run()
    assert healthy.finish_reason is FinishReason.LENGTH
    late = sequence("2", [1] * 20, 9)
    model.run(late)
    assert late.num_cached == 0
