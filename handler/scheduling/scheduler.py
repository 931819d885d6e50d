"""Which sequences take part in the next step, and how many of their tokens. Pure Python.

Sequences move waiting -> running -> finished, or back to waiting when memory runs out (preemption). A step first
gives every running sequence that is decoding its one token, then fills what is left of the token budget with
prompt chunks, oldest first, so a long prompt never stalls the streams that are already running.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from handler.scheduling.kv_manager import KVManager
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.scheduling.siblings import worth_waiting
from handler.scheduling.stopping import finish_reason
from handler.seam.protocol import FinishReason


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`num_tokens` tokens of `seq`, from position `start` on; `samples` if a new token follows from the last."""

    seq: Sequence
    start: int
    num_tokens: int

    @property
    def samples(self) -> bool:
        """True if the chunk reaches the end of the sequence, so that its logits choose the next token."""
        return self.start + self.num_tokens == len(self.seq.token_ids)

    @property
    def num_prompt_tokens(self) -> int:
        """How many of its tokens belong to the prompt; after a preemption output is run again too."""
        return max(0, min(self.start + self.num_tokens, self.seq.num_prompt_tokens) - self.start)

    @property
    def scores_prompt(self) -> bool:
        """True if the request wants log-probabilities of prompt tokens that this chunk predicts."""
        return self.seq.scores_prompt and self.start < self.seq.num_prompt_tokens - 1


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The work of one step: decodes (one token each) first, then prompt chunks."""

    items: list[ScheduledSequence]

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(item.num_tokens for item in self.items)


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of the scheduler; token counts but for `max_num_seqs` and `max_waiting`.

    `max_waiting_tokens` bounds what the sequences in the queue have together; 0 is no bound.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_waiting: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    max_waiting_tokens: int = 0


class Scheduler:
    """Owns both queues and every sequence in them."""

    def __init__(self, limits: SchedulerLimits, kv: KVManager) -> None:
        self.limits = limits
        self.kv = kv
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._audited = True

    @property
    def idle(self) -> bool:
        """True if there is no work at all."""
        return not self.waiting and not self.running

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the sequences in the queue, all of which have to be run."""
        return sum(len(seq.token_ids) for seq in self.waiting)

    def has_room(self, num_tokens: int, coming: Collection[Sequence] = ()) -> bool:
        """Whether a prompt of `num_tokens` may join the queue, as `coming` will. An empty queue takes any prompt."""
        num_waiting = len(self.waiting) + len(coming)
        if num_waiting >= self.limits.max_waiting:
            return False
        limit = self.limits.max_waiting_tokens
        if not limit or not num_waiting:
            return True
        return self.waiting_tokens + sum(len(seq.token_ids) for seq in coming) + num_tokens <= limit

    def add(self, seq: Sequence) -> None:
        """Queue a sequence. The caller has asked `has_room` and checked the prompt's length."""
        self.waiting.append(seq)

    def schedule(self) -> ScheduledBatch:
        """Choose the next step's work; preempts the newest sequences if the cache cannot hold it."""
        batch = self._compose()
        while not batch.items and self.running:
            # Half-filled prompts hold all memory and none can go on: the newest gives way.
            self.preempt(self.running[-1])
            batch = self._compose()
        return batch

    def _compose(self) -> ScheduledBatch:
        budget = self.limits.max_num_batched_tokens
        decodes = self._schedule_decodes(budget)
        budget -= len(decodes)
        chunks = self._continue_prefills(budget)
        budget -= sum(item.num_tokens for item in chunks)
        chunks += self._admit(budget)
        return ScheduledBatch(decodes + chunks)

    def _schedule_decodes(self, budget: int) -> list[ScheduledSequence]:
        """One token for each running sequence that has no more than its newest token to run, oldest first."""
        items: list[ScheduledSequence] = []
        for seq in list(self.running):
            if len(items) >= budget:
                break
            if seq.status is SequenceStatus.RUNNING and seq.num_uncomputed == 1 and self._make_room(seq, 1):
                items.append(ScheduledSequence(seq, seq.num_computed, 1))
        # A later sequence may have been preempted to make room for an earlier one, never the reverse.
        return [item for item in items if item.seq.status is SequenceStatus.RUNNING]

    def _continue_prefills(self, budget: int) -> list[ScheduledSequence]:
        items: list[ScheduledSequence] = []
        for seq in list(self.running):
            if budget <= 0:
                break
            if seq.status is not SequenceStatus.RUNNING or seq.num_uncomputed <= 1:
                continue
            num_tokens = min(seq.num_uncomputed, budget)
            if self._reserve(seq, num_tokens):
                items.append(ScheduledSequence(seq, seq.num_computed, num_tokens))
                budget -= num_tokens
        return items

    def _admit(self, budget: int) -> list[ScheduledSequence]:
        """Move waiting sequences to running while budget, sequence slots and memory last; never out of order."""
        items: list[ScheduledSequence] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            seq = self.waiting[0]
            if worth_waiting(seq, self.running, self.kv.prefix_page_size) or not self.kv.admit(seq):
                break
            self.waiting.popleft()
            seq.status = SequenceStatus.RUNNING
            self.running.append(seq)
            num_tokens = min(seq.num_uncomputed, budget)
            if not self._reserve(seq, num_tokens):
                self.preempt(seq)
                break
            items.append(ScheduledSequence(seq, seq.num_computed, num_tokens))
            budget -= num_tokens
        return items

    def _reserve(self, seq: Sequence, num_tokens: int) -> bool:
        return self.kv.reserve(seq, seq.num_computed + num_tokens)

    def _make_room(self, seq: Sequence, num_tokens: int) -> bool:
        """Reserve for `seq`, preempting the newest running sequences until it fits; False if `seq` itself went."""
        while not self._reserve(seq, num_tokens):
            victim = self.running[-1]
            self.preempt(victim)
            if victim is seq:
                return False
        return True

    def preempt(self, seq: Sequence) -> None:
        """Take its memory back and put it first in the queue; its tokens are kept and run again later."""
        self.kv.release(seq)
        self.running.remove(seq)
        seq.status = SequenceStatus.WAITING
        seq.num_computed = 0
        seq.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(seq)

    def advance(self, item: ScheduledSequence) -> None:
        """Record that the item's tokens are in the cache."""
        item.seq.num_computed = item.start + item.num_tokens
        self.kv.commit(item.seq)

    def append_token(self, seq: Sequence, token_id: int) -> FinishReason | None:
        """Add a sampled token; finishes the sequence and frees its memory if it ends here."""
        seq.token_ids.append(token_id)
        reason = finish_reason(seq, self.limits.eos_token_ids, self.limits.max_model_len)
        if reason is not None:
            self.finish(seq, reason)
        return reason

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        """End a sequence from either queue and free its memory. Ending it again does nothing."""
        if seq.status is SequenceStatus.FINISHED:
            return
        if seq.status is SequenceStatus.RUNNING:
            self.running.remove(seq)
            self.kv.release(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        seq.status = SequenceStatus.FINISHED
        seq.finish_reason = reason

    def expired(self, now_s: float) -> Collection[Sequence]:
        """Sequences past their deadline."""
        return [seq for seq in (*self.running, *self.waiting) if seq.deadline_s <= now_s]

    def audit(self) -> None:
        """Check the books once whenever work has run out. Raises RuntimeError: wrong books give keys to strangers."""
        if self.idle and not self._audited:
            self.check_integrity()
        self._audited = self.idle

    def check_integrity(self) -> None:
        """Raise RuntimeError if the queues and the memory books disagree."""
        if any(seq.status is not SequenceStatus.RUNNING for seq in self.running):
            raise RuntimeError("a sequence in `running` is not RUNNING")
        if any(seq.status is not SequenceStatus.WAITING or seq.slot >= 0 or seq.block_table for seq in self.waiting):
            raise RuntimeError("a sequence in `waiting` holds memory or is not WAITING")
        self.kv.check_integrity(self.running)
