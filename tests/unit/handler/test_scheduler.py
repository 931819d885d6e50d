"""Properties of scheduler and memory books over random arrivals, lengths, aborts and pressures; no model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.scheduling.scheduler import ScheduledBatch, Scheduler, SchedulerLimits
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.scheduling.slot_manager import SlotManager
from handler.seam.protocol import FinishReason, GenerateRequest, SamplingParams

MAX_LEN = 64
EOS = 1


def sequence(name: str, prompt_len: int, max_tokens: int) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, seed=0)
    request = GenerateRequest(name, [5] * prompt_len, params, 60.0)
    return Sequence(request, b"w", 0.0, 60.0)


def make(num_seqs: int = 4, budget: int = 16, capacity: int = 128, page: int = 8) -> Scheduler:
    limits = SchedulerLimits(
        max_num_seqs=num_seqs,
        max_num_batched_tokens=budget,
        max_waiting=100,
        max_model_len=MAX_LEN,
        eos_token_ids=frozenset({EOS}),
    )
    return Scheduler(limits, SlotManager(num_seqs, MAX_LEN, capacity, page))


def play(scheduler: Scheduler, batch: ScheduledBatch, token_id: int = 9) -> list[Sequence]:
    """Pretend to run the batch: every item that samples gets `token_id`. Returns who ended."""
    for item in batch.items:
        scheduler.advance(item)
    return [
        item.seq
        for item in batch.items
        if item.seq.num_uncomputed == 0 and scheduler.append_token(item.seq, token_id) is not None
    ]


def check_batch(scheduler: Scheduler, batch: ScheduledBatch) -> None:
    assert batch.num_tokens <= scheduler.limits.max_num_batched_tokens
    assert len({id(item.seq) for item in batch.items}) == len(batch.items)
    for item in batch.items:
        assert item.seq.status is SequenceStatus.RUNNING
        assert item.num_tokens >= 1
        assert item.start == item.seq.num_computed
        assert item.start + item.num_tokens <= len(item.seq.token_ids)
    assert len({item.seq.slot for item in batch.items}) == len(batch.items)
    scheduler.check_integrity()


@st.composite
def workloads(draw: st.DrawFn) -> list[tuple[int, int, int, int | None]]:
    """(arrival step, prompt length, max tokens, abort step or None) of each request."""
    one = st.tuples(st.integers(0, 20), st.integers(1, MAX_LEN - 1), st.integers(1, 40), st.none() | st.integers(0, 40))
    return draw(st.lists(one, min_size=1, max_size=14))


@settings(max_examples=150)
@given(
    load=workloads(),
    num_seqs=st.integers(1, 6),
    budget=st.integers(1, 40),
    capacity=st.integers(MAX_LEN, 200),
    page=st.sampled_from([1, 4, 8, 32]),
)
def test_every_request_ends_and_all_memory_comes_back(
    load: list[tuple[int, int, int, int | None]], num_seqs: int, budget: int, capacity: int, page: int
) -> None:
    scheduler = make(num_seqs, budget, capacity, page)
    arrivals = [(at, abort, sequence(str(i), plen, n)) for i, (at, plen, n, abort) in enumerate(load)]
    for step in range(3000):
        for at, abort, seq in arrivals:
            if at == step:
                scheduler.add(seq)
            if abort is not None and at <= step and abort == step:
                scheduler.finish(seq, FinishReason.ABORTED)
        batch = scheduler.schedule()
        check_batch(scheduler, batch)
        assert batch.items or scheduler.idle, "work is waiting and nothing is scheduled"
        play(scheduler, batch)
        scheduler.check_integrity()
        if step > 20 and scheduler.idle:
            break
    assert scheduler.idle
    assert scheduler.kv.used_tokens == 0
    for (_, plen, n, _), (_, _, seq) in zip(load, arrivals, strict=True):
        if seq.finish_reason is FinishReason.LENGTH:
            assert seq.num_output_tokens == min(n, MAX_LEN - plen)
        else:
            assert seq.finish_reason is FinishReason.ABORTED


def test_running_streams_get_a_token_in_every_step_while_a_long_prompt_arrives() -> None:
    scheduler = make(num_seqs=4, budget=8, capacity=256)
    streams = [sequence(f"s{i}", 2, 40) for i in range(3)]
    for seq in streams:
        scheduler.add(seq)
    play(scheduler, scheduler.schedule())
    long = sequence("long", 60, 4)
    scheduler.add(long)
    steps = 0
    while long.num_computed < 60:
        batch = scheduler.schedule()
        assert {s.request_id for s in streams} <= {item.seq.request_id for item in batch.items}
        play(scheduler, batch)
        steps += 1
    assert steps == 12, "60 prompt tokens in chunks of 8 - 3"


def test_first_come_first_served() -> None:
    scheduler = make(num_seqs=2, budget=64, capacity=256)
    seqs = [sequence(str(i), 4, 3) for i in range(6)]
    for seq in seqs:
        scheduler.add(seq)
    order: list[str] = []
    while not scheduler.idle:
        order += [seq.request_id for seq in play(scheduler, scheduler.schedule())]
    assert order == [seq.request_id for seq in seqs]


def test_the_newest_gives_way_and_keeps_its_tokens() -> None:
    scheduler = make(num_seqs=2, budget=64, capacity=64, page=1)
    old, new = sequence("old", 20, 30), sequence("new", 20, 30)
    scheduler.add(old)
    scheduler.add(new)
    old.lookup = new.lookup = "an index of its tokens"
    while new.num_preemptions == 0:
        play(scheduler, scheduler.schedule())
    kept = list(new.token_ids)
    assert len(kept) > 20
    assert old.num_preemptions == 0
    assert new.status is SequenceStatus.WAITING
    assert new.num_computed == 0
    assert (old.lookup is None, new.lookup is None) == (False, True)
    while not scheduler.idle:
        play(scheduler, scheduler.schedule())
    assert new.token_ids[: len(kept)] == kept
    assert len(new.token_ids) == 50


def test_end_of_sequence_beats_length() -> None:
    scheduler = make()
    seq = sequence("a", 3, 1)
    scheduler.add(seq)
    play(scheduler, scheduler.schedule(), token_id=EOS)
    assert seq.finish_reason is FinishReason.EOS


def test_capacity_below_the_longest_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        SlotManager(2, 64, 63, 8)


def broken_books() -> Iterator[tuple[str, Scheduler]]:
    lost = make()
    seq = sequence("a", 9, 4)
    lost.add(seq)
    lost.schedule()
    lost.running.remove(seq)
    yield "a slot that nobody holds", lost
    twice = make()
    seq = sequence("a", 9, 4)
    twice.add(seq)
    twice.schedule()
    twice.kv.release(seq)
    yield "a sequence without its slot", twice


@pytest.mark.parametrize(("what", "scheduler"), list(broken_books()))
def test_the_integrity_check_can_fail(what: str, scheduler: Scheduler) -> None:
    with pytest.raises(RuntimeError):
        scheduler.check_integrity()
