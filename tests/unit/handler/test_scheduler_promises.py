"""What every request may rely on, over random arrivals, lengths, aborts and pressures, for both kinds of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.scheduling.block_manager import BlockManager
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import Scheduler, SchedulerLimits
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.scheduling.slot_manager import SlotManager
from handler.seam.protocol import FinishReason, GenerateRequest, SamplingParams

MAX_LEN = 64
Books = Callable[[int, int, int], KVManager]
BOOKS: dict[str, Books] = {
    "slots": lambda num_seqs, capacity, page: SlotManager(num_seqs, MAX_LEN, capacity, page),
    "pages": lambda _num_seqs, capacity, page: BlockManager(MAX_LEN, capacity, page),
}


@dataclass
class Load:
    """A request: when it comes, what it wants, when its client goes away."""

    at: int
    prompt: list[int]
    max_tokens: int
    abort: int | None


@dataclass
class Machine:
    """The scheduler's bounds and memory."""

    num_seqs: int
    budget: int
    capacity: int
    page: int
    max_waiting: int


@dataclass
class Watched:
    """One run, with what the promises are about noted in every step."""

    scheduler: Scheduler
    arrived: list[Sequence] = field(default_factory=list)
    refused: int = 0

    def offer(self, seq: Sequence) -> None:
        """As the engine does."""
        if not self.scheduler.has_room(len(seq.token_ids)):
            self.refused += 1
            seq.status = SequenceStatus.FINISHED
            return
        self.scheduler.add(seq)
        self.arrived.append(seq)

    def step(self) -> None:
        scheduler = self.scheduler
        oldest = next((seq for seq in self.arrived if seq.status is not SequenceStatus.FINISHED), None)
        decoding = [seq for seq in scheduler.running if seq.num_uncomputed == 1]
        preempted = {seq.request_id: seq.num_preemptions for seq in self.arrived}
        batch = scheduler.schedule()
        named = {item.seq.request_id for item in batch.items}
        assert batch.num_tokens <= scheduler.limits.max_num_batched_tokens
        assert len(scheduler.running) <= scheduler.limits.max_num_seqs
        assert oldest is None or oldest.request_id in named, "the oldest request goes on in every step"
        for seq in decoding:
            gave_way = seq.num_preemptions > preempted[seq.request_id]
            assert gave_way or seq.request_id in named, "a stream that keeps its memory gets a token in every step"
        self._check_order()
        for item in batch.items:
            scheduler.advance(item)
            if item.seq.num_uncomputed == 0:
                scheduler.append_token(item.seq, next_token(item.seq.token_ids))
        scheduler.check_integrity()

    def _check_order(self) -> None:
        """First come, first served: nobody runs while an older one waits, whoever had to give way."""
        order = {seq.request_id: i for i, seq in enumerate(self.arrived)}
        queues = [*self.scheduler.running, *self.scheduler.waiting]
        places = [order[seq.request_id] for seq in queues]
        assert places == sorted(places)
        assert len(self.scheduler.waiting) <= self.scheduler.limits.max_waiting + self.scheduler.limits.max_num_seqs


def next_token(token_ids: list[int]) -> int:
    """A pretended model: the next token follows from all that came before, and from nothing else."""
    return 2 + blake2b(bytes(token_ids), digest_size=1).digest()[0] % 60


def make(books: Books, machine: Machine) -> Scheduler:
    limits = SchedulerLimits(
        max_num_seqs=machine.num_seqs,
        max_num_batched_tokens=machine.budget,
        max_waiting=machine.max_waiting,
        max_model_len=MAX_LEN,
        eos_token_ids=frozenset(),
    )
    return Scheduler(limits, books(machine.num_seqs, machine.capacity, machine.page))


def sequence(name: str, prompt: list[int], max_tokens: int) -> Sequence:
    request = GenerateRequest(name, prompt, SamplingParams(max_tokens=max_tokens, seed=0), 60.0)
    return Sequence(request, b"w", 0.0, 60.0)


def alone(load: Load) -> list[int]:
    """The tokens without any neighbour."""
    tokens = list(load.prompt)
    while len(tokens) < min(MAX_LEN, len(load.prompt) + load.max_tokens):
        tokens.append(next_token(tokens))
    return tokens


loads = st.lists(
    st.builds(
        Load,
        at=st.integers(0, 15),
        prompt=st.lists(st.integers(2, 4), min_size=1, max_size=MAX_LEN - 1),
        max_tokens=st.integers(1, 40),
        abort=st.none() | st.integers(0, 40),
    ),
    min_size=1,
    max_size=14,
)
machines = st.builds(
    Machine,
    num_seqs=st.integers(1, 6),
    budget=st.integers(1, 40),
    capacity=st.integers(MAX_LEN, 200),
    page=st.sampled_from([1, 4, 8, 32]),
    max_waiting=st.integers(1, 14),
)


@pytest.mark.parametrize("books", BOOKS.values(), ids=BOOKS)
@settings(max_examples=150)
@given(load=loads, machine=machines)
def test_order_progress_budget_and_answers(books: Books, load: list[Load], machine: Machine) -> None:
    watched = Watched(make(books, machine))
    seqs = [sequence(str(i), each.prompt, each.max_tokens) for i, each in enumerate(load)]
    for step in range(5000):
        for each, seq in zip(load, seqs, strict=True):
            if each.at == step:
                watched.offer(seq)
            if each.abort == step > each.at:
                watched.scheduler.finish(seq, FinishReason.ABORTED)
        watched.step()
        if step > 40 and watched.scheduler.idle:
            break
    assert watched.scheduler.idle
    assert watched.refused + len(watched.arrived) == len(load)
    for each, seq in zip(load, seqs, strict=True):
        if seq.finish_reason is FinishReason.LENGTH:
            assert seq.token_ids == alone(each), "whoever ran beside it, whatever was taken from it"


@pytest.mark.parametrize("books", BOOKS, ids=BOOKS)
@pytest.mark.parametrize("num_streams", [1, 8, 31])
def test_a_prompt_of_4000_tokens_lets_every_stream_go_on(books: str, num_streams: int) -> None:
    """Between two tokens of a stream the model never has more to do than one ordinary step of the budget."""
    budget, longest = 256, 8192
    limits = SchedulerLimits(64, budget, 128, longest, frozenset())
    kv: KVManager = SlotManager(64, longest, 65536, 32) if books == "slots" else BlockManager(longest, 65536, 32)
    scheduler = Scheduler(limits, kv)
    streams = [sequence(f"s{i}", [2 + i], 1000) for i in range(num_streams)]
    long = sequence("long", [3] * 4000, 1)
    for seq in streams:
        scheduler.add(seq)
    steps = 0
    while long.status is not SequenceStatus.FINISHED:
        if steps == 3:
            scheduler.add(long)
        before = [seq.num_output_tokens for seq in streams]
        batch = scheduler.schedule()
        assert batch.num_tokens <= budget
        for item in batch.items:
            scheduler.advance(item)
            if item.seq.num_uncomputed == 0:
                scheduler.append_token(item.seq, 2)
        assert [seq.num_output_tokens for seq in streams] == [number + 1 for number in before]
        steps += 1
    assert steps - 3 == -(-4000 // (budget - num_streams)), "all that the streams leave of the budget is used"
