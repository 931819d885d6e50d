"""Which sequences take part in the next step, and how many of their tokens. Pure Python.

Sequences move waiting -> running -> finished, or back to waiting when memory runs out (preemption). A step schedules
one token for every decoding sequence, then fills the rest of the token budget with prompt chunks, oldest first. A long
prompt therefore never stalls running streams. A step without prompt chunks may hold draft tokens: guesses of what
follows the newest token of a sequence, which the same pass verifies. A sequence whose adapter has no slot waits without
holding up others (handler/scheduling/adapter_slots.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from handler.scheduling.adapter_slots import AdapterSlots
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.scheduling.siblings import worth_waiting
from handler.scheduling.stopping import finish_reason
from handler.seam.protocol import FinishReason


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`num_tokens` tokens of `seq`, starting at position `start`. The last of them are `draft`, which `seq` lacks."""

    seq: Sequence
    start: int
    num_tokens: int
    draft: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        """True if the chunk reaches the end of the sequence, so that the next token is sampled from its logits."""
        return self.start + self.num_tokens >= len(self.seq.token_ids)

    @property
    def token_ids(self) -> list[int]:
        """The `num_tokens` tokens."""
        own = self.seq.token_ids[self.start : self.start + self.num_tokens - len(self.draft)]
        return [*own, *self.draft]

    @property
    def is_decode(self) -> bool:
        """True for one token that chooses the next, and the draft after it."""
        return self.samples and self.num_tokens == 1 + len(self.draft)

    def rows(self) -> list[ScheduledSequence]:
        """A decode as items of one token each; all but the first are drafts."""
        ahead = (ScheduledSequence(self.seq, self.start + i, 1, (token,)) for i, token in enumerate(self.draft, 1))
        return [ScheduledSequence(self.seq, self.start, 1), *ahead]

    def without_draft(self) -> ScheduledSequence:
        """The item's own tokens alone."""
        return ScheduledSequence(self.seq, self.start, self.num_tokens - len(self.draft)) if self.draft else self

    @property
    def num_prompt_tokens(self) -> int:
        """How many of its tokens belong to the prompt; after preemption a chunk may also hold output tokens."""
        return max(0, min(self.start + self.num_tokens, self.seq.num_prompt_tokens) - self.start)

    @property
    def scores_prompt(self) -> bool:
        """True if the request wants log-probabilities of prompt tokens that this chunk predicts."""
        return self.seq.scores_prompt and self.start < self.seq.num_prompt_tokens - 1


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """The work of one step: decodes (one token each, and its draft) first, then prompt chunks."""

    items: list[ScheduledSequence]

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(item.num_tokens for item in self.items)

    @property
    def only_decodes(self) -> bool:
        """True for a step, not yet run, without prompt chunks."""
        return bool(self.items) and all(item.is_decode for item in self.items)


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of the scheduler, in tokens except `max_num_seqs` and `max_waiting`.

    `max_waiting_tokens` bounds the sum over the queue, `max_decode_rows` decodes and drafts together; 0: no bound.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_waiting: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    max_waiting_tokens: int = 0
    max_decode_rows: int = 0


class Drafter(Protocol):
    """Guesses what follows (handler.speculation: NgramDrafter, ModelDrafter)."""

    def propose(self, seqs: list[Sequence], max_tokens: list[int], budget: int) -> list[tuple[int, ...]]:
        """A draft for each of `seqs`, possibly empty: at most `max_tokens[i]` tokens, and `budget` together."""

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learn how long a step of decodes and drafts took, from the choice of the drafts on."""

    def forget(self, seq: Sequence) -> None:
        """Free what is known of `seq`: it has ended, or is preempted and may wait for long."""

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raise RuntimeError if memory is held for another sequence than those `running`."""


class Scheduler:
    """Owns the waiting and running queues and every sequence in them."""

    def __init__(
        self,
        limits: SchedulerLimits,
        kv: KVManager,
        drafter: Drafter | None = None,
        adapters: AdapterSlots | None = None,
    ) -> None:
        """`adapters` is None if no sequence names one."""
        self.limits = limits
        self.kv = kv
        self.drafter = drafter
        self.adapters = adapters
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._audited = True

    @property
    def idle(self) -> bool:
        """True if nothing waits and nothing runs."""
        return not self.waiting and not self.running

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the waiting sequences."""
        return sum(len(seq.token_ids) for seq in self.waiting)

    def has_room(self, num_tokens: int, pending: Collection[Sequence] = ()) -> bool:
        """Whether a prompt of `num_tokens` fits the queue beside `pending` ones. An empty queue takes any prompt."""
        num_waiting = len(self.waiting) + len(pending)
        if num_waiting >= self.limits.max_waiting:
            return False
        limit = self.limits.max_waiting_tokens
        if not limit or not num_waiting:
            return True
        return self.waiting_tokens + sum(len(seq.token_ids) for seq in pending) + num_tokens <= limit

    def add(self, seq: Sequence) -> None:
        """Queue a sequence. The caller has checked `has_room` and the prompt's length."""
        self.waiting.append(seq)

    def schedule(self) -> ScheduledBatch:
        """Choose the next step's work; preempts the newest sequences if the cache cannot hold it."""
        batch = self._compose()
        while not batch.items and self.running:
            # Partly computed prompts hold all memory and block each other: preempt the newest.
            self.preempt(self.running[-1])
            batch = self._compose()
        return batch

    def _compose(self) -> ScheduledBatch:
        budget = self.limits.max_num_batched_tokens
        decodes = self._schedule_decodes(budget)
        budget -= len(decodes)
        chunks = self._continue_prefills(budget)
        budget -= sum(item.num_tokens for item in chunks)
        chunks += self._start_waiting(budget)
        if self.drafter is not None and decodes and not chunks:
            decodes = self._with_drafts(self.drafter, decodes, budget)
        return ScheduledBatch(decodes + chunks)

    def _with_drafts(self, drafter: Drafter, decodes: list[ScheduledSequence], budget: int) -> list[ScheduledSequence]:
        """Add drafts to `decodes` as far as memory is free: a draft preempts nobody."""
        if self.limits.max_decode_rows:
            budget = min(budget, self.limits.max_decode_rows - len(decodes))
        drafts = drafter.propose(
            [item.seq for item in decodes], [self._longest_draft(item) for item in decodes], budget
        )
        found: list[ScheduledSequence] = []
        for item, draft in zip(decodes, drafts, strict=True):
            if draft and self._reserve(item.seq, 1 + len(draft)):
                found.append(ScheduledSequence(item.seq, item.start, 1 + len(draft), draft))
            else:
                found.append(item)
        return found

    def _longest_draft(self, item: ScheduledSequence) -> int:
        """How many tokens may follow the one that `item` samples for certain. A suspect runs without drafts."""
        seq = item.seq
        if item.start < seq.alone_until:
            return 0
        most = min(seq.sampling.max_tokens - seq.num_output_tokens, self.limits.max_model_len - len(seq.token_ids))
        return max(0, most - 1)

    def _schedule_decodes(self, budget: int) -> list[ScheduledSequence]:
        """One token for each decoding sequence, oldest first: only its newest token is uncomputed."""
        items: list[ScheduledSequence] = []
        for seq in list(self.running):
            if len(items) >= budget:
                break
            if seq.status is SequenceStatus.RUNNING and seq.num_uncomputed == 1 and self._make_room(seq, 1):
                items.append(ScheduledSequence(seq, seq.num_computed, 1))
        # Room for a sequence is made by preempting later ones, never earlier ones.
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

    def _start_waiting(self, budget: int) -> list[ScheduledSequence]:
        """Move waiting sequences to running, in order, while budget, `max_num_seqs` and memory last.

        Those whose adapter has no slot are passed over.
        """
        items: list[ScheduledSequence] = []
        admission = self.adapters.admission(self.running) if self.adapters is not None else None
        place = 0
        while place < len(self.waiting) and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            seq = self.waiting[place]
            if admission is not None and not admission.admits(seq):
                place += 1
                continue
            if worth_waiting(seq, self.running, self.kv.prefix_page_size) or not self.kv.allocate(seq):
                break
            del self.waiting[place]
            if admission is not None:
                admission.start(seq)
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
        """Reserve for `seq`, preempting the newest running sequences until it fits; False if `seq` was preempted."""
        while not self._reserve(seq, num_tokens):
            victim = self.running[-1]
            self.preempt(victim)
            if victim is seq:
                return False
        return True

    def preempt(self, seq: Sequence) -> None:
        """Free the memory of `seq` and put it first in the queue. It keeps its tokens and recomputes them later."""
        self._release(seq)
        self.running.remove(seq)
        seq.status = SequenceStatus.WAITING
        seq.num_computed = 0
        seq.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(seq)

    def advance(self, item: ScheduledSequence, num_accepted: int = 0) -> None:
        """Record that the item's tokens are in the cache: its own, and `num_accepted` of its draft.

        The accepted ones are in `seq.token_ids`. The memory of others is written again.
        """
        item.seq.num_computed = item.start + item.num_tokens - len(item.draft) + num_accepted
        self.kv.commit(item.seq)

    def append_token(self, seq: Sequence, token_id: int) -> FinishReason | None:
        """Append a sampled token. If the sequence ends with it, finish it and return the reason."""
        seq.token_ids.append(token_id)
        reason = finish_reason(seq, self.limits.eos_token_ids, self.limits.max_model_len)
        if reason is not None:
            self.finish(seq, reason)
        return reason

    def finish(self, seq: Sequence, reason: FinishReason) -> None:
        """Remove a sequence from its queue and free its memory. Does nothing if it is finished already."""
        if seq.status is SequenceStatus.FINISHED:
            return
        if seq.status is SequenceStatus.RUNNING:
            self.running.remove(seq)
            self._release(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        seq.status = SequenceStatus.FINISHED
        seq.finish_reason = reason

    def _release(self, seq: Sequence) -> None:
        """Free what a running sequence holds."""
        self.kv.release(seq)
        if self.adapters is not None:
            self.adapters.leave(seq)
        seq.lookup = None  # it may be large
        if self.drafter is not None:
            self.drafter.forget(seq)

    def expired(self, now_s: float) -> Collection[Sequence]:
        """Sequences past their deadline."""
        return [seq for seq in (*self.running, *self.waiting) if seq.deadline_s <= now_s]

    def audit(self) -> None:
        """Check integrity once each time the queues become empty. Raises RuntimeError.

        With corrupt accounting one request could read another's keys and values.
        """
        if self.idle and not self._audited:
            self.check_integrity()
        self._audited = self.idle

    def check_integrity(self) -> None:
        """Raise RuntimeError if the queues and the KV accounting disagree."""
        if any(seq.status is not SequenceStatus.RUNNING for seq in self.running):
            raise RuntimeError("a sequence in `running` is not RUNNING")
        if any(seq.status is not SequenceStatus.WAITING or seq.slot >= 0 or seq.block_table for seq in self.waiting):
            raise RuntimeError("a sequence in `waiting` holds memory or is not WAITING")
        self.kv.check_integrity(self.running)
        if self.adapters is not None:
            self.adapters.check_integrity(self.running)
        if self.drafter is not None:
            self.drafter.check_integrity(self.running)
