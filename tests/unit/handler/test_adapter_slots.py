"""Which adapters run together, which give way, and that nobody waits for ever. No model."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from handler.scheduling.adapter_slots import BASE, AdapterSlots
from handler.scheduling.block_manager import BlockManager
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, Scheduler, SchedulerLimits
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.scheduling.siblings import worth_waiting
from handler.scheduling.slot_manager import SlotManager
from handler.scheduling.slot_prefixes import SlotPrefixes
from handler.seam.protocol import FinishReason, GenerateRequest, SamplingParams

MAX_LEN = 64


class NoCopies:
    """The tensors of slots and pages, of which there are none here."""

    def save_page(self, slot: int, start: int, page: int) -> None:
        """Nothing to copy."""

    def restore_pages(self, pages: list[int], slot: int) -> None:
        """Nothing to copy."""


BOOKS: dict[str, Callable[[], KVManager]] = {
    "slots": lambda: SlotManager(6, MAX_LEN, 6 * MAX_LEN, 4, prefixes=SlotPrefixes(40, 4, NoCopies())),
    "pages": lambda: BlockManager(MAX_LEN, 6 * MAX_LEN, 4),
}


def sequence(name: str, registration: str = "", num_tokens: int = 4, prompt: list[int] | None = None) -> Sequence:
    params = SamplingParams(max_tokens=num_tokens, seed=0)
    request = GenerateRequest(name, prompt or [5, 6, 7], params, 60.0, adapter=registration or None)
    seq = Sequence(request, b"w", 0.0, 60.0)
    seq.registration = registration
    return seq


def scheduler(num_slots: int, num_seqs: int = 6, capacity: int = 6 * MAX_LEN, budget: int = 32) -> Scheduler:
    limits = SchedulerLimits(
        max_num_seqs=num_seqs,
        max_num_batched_tokens=budget,
        max_waiting=1000,
        max_model_len=MAX_LEN,
        eos_token_ids=frozenset(),
    )
    return Scheduler(limits, SlotManager(num_seqs, MAX_LEN, capacity, 4), adapters=AdapterSlots(num_slots))


def slots_of(found: Scheduler) -> AdapterSlots:
    assert found.adapters is not None
    return found.adapters


def step(found: Scheduler) -> ScheduledBatch:
    """Schedule, and pretend to run."""
    batch = found.schedule()
    found.check_integrity()
    for item in batch.items:
        found.advance(item)
        if item.seq.num_uncomputed == 0:
            found.append_token(item.seq, 9)
    found.check_integrity()
    return batch


@pytest.mark.parametrize("seed", range(30))
def test_random_schedules_of_many_adapters_end_within_the_slots(seed: int) -> None:
    rng = random.Random(seed)
    num_slots = rng.randint(1, 4)
    found = scheduler(num_slots, rng.randint(1, 6), rng.randint(MAX_LEN, 3 * MAX_LEN), rng.randint(2, 32))
    slots = slots_of(found)
    pinned = [f"a{i}" for i in range(rng.randint(0, num_slots - 1))]
    for each in pinned:
        slots.pin(each, True)
    seqs = [
        sequence(str(i), rng.choice(["", *(f"a{n}" for n in range(9))]), rng.randint(1, 20), [5] * rng.randint(1, 40))
        for i in range(40)
    ]
    arrivals = sorted((rng.randint(0, 60), i) for i in range(len(seqs)))
    kept: set[str] = set()
    for at in range(4000):
        while arrivals and arrivals[0][0] <= at:
            found.add(seqs[arrivals.pop(0)[1]])
        if rng.random() < 0.02 and not found.idle:
            found.finish(rng.choice([*found.running, *found.waiting]), FinishReason.ABORTED)
        batch = step(found)
        assert batch.items or found.idle, "work is waiting and nothing is scheduled"
        assert len({item.seq.registration for item in batch.items} - {""}) <= num_slots
        kept |= {each for each in pinned if slots.slot_of(each) != BASE}
        assert all(slots.slot_of(each) != BASE for each in kept), "a pinned adapter was evicted"
        if found.idle and not arrivals:
            break
    assert found.idle
    assert not arrivals
    assert all(seq.adapter_slot == BASE for seq in seqs)


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_an_adapter_without_a_slot_gets_one_though_others_never_pause(num_slots: int) -> None:
    found = scheduler(num_slots)
    busy = [f"busy{i}" for i in range(num_slots)]
    late = sequence("late", "late")
    for at in range(100):
        for name in busy:  # two of each at any time, so that no slot ever becomes idle by itself
            if sum(seq.registration == name for seq in (*found.running, *found.waiting)) < 2:
                found.add(sequence(f"{name}-{at}", name, 6))
        if at == 10:
            found.add(late)
        step(found)
        if late.num_output_tokens:
            break
    assert late.num_output_tokens
    assert at < 10 + 6 + 4, "it waited for more than one sequence of another adapter to end"


def test_who_finds_no_slot_holds_up_neither_the_base_nor_adapters_in_use() -> None:
    found = scheduler(1)
    first = sequence("first", "one", 20)
    found.add(first)
    step(found)
    blocked, same, base = sequence("blocked", "two"), sequence("same", "one"), sequence("base")
    for seq in (blocked, base, same):
        found.add(seq)
    step(found)
    assert [seq.status for seq in (blocked, base)] == [SequenceStatus.WAITING, SequenceStatus.RUNNING]
    assert same.status is SequenceStatus.WAITING, "it would keep the slot that an older one waits for"
    while first.status is SequenceStatus.RUNNING:
        step(found)
    step(found)
    assert blocked.adapter_slot == 0


def test_one_adapter_enters_a_slot_in_a_step_while_others_run() -> None:
    found = scheduler(4)
    found.add(sequence("stream", "", 30))
    step(found)
    for i in range(4):
        found.add(sequence(str(i), f"a{i}", 20))
    resident = []
    for _ in range(4):
        step(found)
        resident.append(slots_of(found).num_resident)
    assert resident == [1, 2, 3, 4]
    idle = scheduler(4)
    for i in range(4):
        idle.add(sequence(str(i), f"a{i}"))
    step(idle)
    assert slots_of(idle).num_resident == 4, "nobody runs who would have to wait"


def test_the_least_recently_used_adapter_gives_way_and_a_pinned_one_never() -> None:
    found = scheduler(3)
    slots = slots_of(found)
    slots.pin("a", True)
    for name in ("a", "b", "c", "b"):
        found.add(sequence(name, name, 1))
        step(found)
    assert slots.contents == ["a", "b", "c"]
    found.add(sequence("d", "d", 1))
    step(found)
    assert (slots.contents, slots.num_evictions) == (["a", "b", "d"], 1)
    slots.preload("e", [])
    assert slots.contents == ["a", "e", "d"]
    slots.forget("a")
    assert slots.contents == [None, "e", "d"]


def test_a_preempted_sequence_gives_its_slot_back_and_gets_one_again() -> None:
    found = scheduler(1)
    seq = sequence("one", "one", 10)
    found.add(seq)
    step(found)
    found.preempt(seq)
    assert seq.adapter_slot == BASE
    slots_of(found).preload("other", found.running)
    step(found)
    assert slots_of(found).contents == ["one"]
    assert seq.adapter_slot == 0


@pytest.mark.parametrize("books", BOOKS.values(), ids=BOOKS)
def test_prefixes_are_shared_within_a_registration_alone(books: Callable[[], KVManager]) -> None:
    """The base, two adapters, and one of them registered again: none sees another's keys, each sees its own."""
    kv = books()
    prompt = list(range(10, 31))
    hits: dict[str, list[int]] = {}
    for turn in range(2):
        for registration in ("", "one", "two", "one-again"):
            seq = sequence(f"{registration}{turn}", registration, prompt=prompt)
            assert kv.allocate(seq)
            hits.setdefault(registration, []).append(seq.num_computed)
            kv.reserve(seq, len(prompt))
            seq.num_computed = len(prompt)
            kv.commit(seq)
            kv.release(seq)
    assert hits == {registration: [0, 20] for registration in ("", "one", "two", "one-again")}


def test_a_tenants_salt_cannot_name_an_adapter() -> None:
    def salt(registration: str, tenant: str) -> str:
        seq = sequence("x", registration)
        request = GenerateRequest("x", [1], seq.sampling, 1.0, tenant)
        found = Sequence(request, b"", 0.0, 1.0)
        found.registration = registration
        return found.prefix_salt

    pairs = [("", ""), ("one", ""), ("", "one"), ("one", "one"), ("", "one\n"), ("", "\none"), ("one", "\n")]
    assert len({salt(*pair) for pair in pairs}) == len(pairs)


def test_a_prompt_is_not_waited_for_if_another_adapter_computes_it() -> None:
    prompt = list(range(40))
    computing = sequence("a", "one", prompt=prompt)
    assert worth_waiting(sequence("b", "one", prompt=prompt), [computing], 4)
    assert not worth_waiting(sequence("c", "two", prompt=prompt), [computing], 4)
    assert not worth_waiting(sequence("d", "", prompt=prompt), [computing], 4)
