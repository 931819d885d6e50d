"""The script of the start-up trial, run on a runner.

One script serves every runner. A long prompt comes in chunks, a second sequence joins while the first prefills, a third
while the second decodes; the third leaves early, the first is preempted and computed again. Memory is the runner's own
`KVManager`, so block tables, prefix reuse and slot reuse take part.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from handler.runners.runner import Runner
from handler.scheduling.kv_manager import KVManager
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import GenerateRequest, SamplingParams

# If the longest text has at most this many tokens, all logits are compared, else only those that choose a token: a row
# takes 1 MB in float32 with a vocabulary of 262,144.
MAX_SCORED = 128
# Tokens that each sequence decodes one by one after its prompt, and after how many of them the first is preempted.
NUM_DECODES = (5, 4, 2)
_PREEMPTED_AFTER = 2


class Play:
    """The script, run once on a runner. Rows are `(position, float32 [vocab])` by sequence."""

    def __init__(self, runner: Runner, kv: KVManager, texts: list[list[int]], max_num_seqs: int) -> None:
        self.prompt_rows: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        self.decode_rows: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        self._runner, self._kv, self._max_num_seqs = runner, kv, max_num_seqs
        is_scored = max(map(len, texts)) <= MAX_SCORED
        self._roles = [_Role(index, text, is_scored) for index, text in enumerate(texts)]
        self._running: list[_Role] = []

    def run(self) -> None:
        """Until every sequence has run to the end of its text. Sequences for which memory is short wait."""
        waiting = list(self._roles)
        while waiting or self._running:
            while waiting and self._joins(waiting[0]):
                self._running.append(waiting.pop(0))
            waiting = self._step() + waiting

    def leave(self) -> None:
        """Give all memory back."""
        for role in self._running:
            self._kv.release(role.seq)
        self._running = []

    def _joins(self, role: _Role) -> bool:
        """Each sequence joins once the one before it has begun; the third, once the second decodes."""
        if role.pause and self._running:
            role.pause -= 1
            return False
        before = self._roles[role.index - 1] if role.index else None
        if before is not None and before in self._running and not before.has_begun(decoding=role.index == 2):
            return False
        return len(self._running) < self._max_num_seqs and self._kv.allocate(role.seq)

    def _step(self) -> list[_Role]:
        """One pass over all running sequences; returns those that were preempted before or after it."""
        preempted = self._make_room()
        self._record([role.next_item() for role in self._running])
        for role in list(self._running):
            role.advance()
            self._kv.commit(role.seq)
            if role.is_done:
                self._running.remove(role)
                self._kv.release(role.seq)
            elif role.is_to_be_preempted:
                self._preempt(role)
                preempted.append(role)
        return preempted

    def _make_room(self) -> list[_Role]:
        """Reserve memory for the step; where it is short, the newest sequence is preempted."""
        preempted: list[_Role] = []
        for role in list(self._running):
            while role in self._running and not self._kv.reserve(role.seq, role.next_end):
                preempted.append(self._running[-1])
                self._preempt(self._running[-1])
        if not self._running:
            raise RuntimeError("KV memory does not hold one sequence")
        return preempted

    def _preempt(self, role: _Role) -> None:
        self._running.remove(role)
        self._kv.release(role.seq)
        role.go_back()

    def _record(self, items: list[ScheduledSequence]) -> None:
        found = self._runner.run(ScheduledBatch(items))
        # The next pass may overwrite the logits of this one.
        for item, row in zip(found.samples, found.logits, strict=True):
            end = item.start + item.num_tokens - 1
            self.decode_rows[int(item.seq.request_id)].append((end, row.to(torch.float32, copy=True)))
        for item, rows in found.prompt:
            numbered = enumerate(rows.to(torch.float32, copy=True), item.start)
            self.prompt_rows[int(item.seq.request_id)] += numbered


@dataclass(eq=False)
class _Role:
    """One sequence of the script: a prompt, in chunks for the first, then the rest of its text token by token."""

    index: int
    text: list[int]
    is_scored: bool
    seq: Sequence = field(init=False)
    pause: int = 0
    is_back: bool = False

    def __post_init__(self) -> None:
        num_prompt = max(1, len(self.text) - NUM_DECODES[self.index])
        scored = 0 if self.is_scored else None
        sampling = SamplingParams(max_tokens=len(self.text), seed=0, num_prompt_logprobs=scored)
        self.seq = Sequence(GenerateRequest(str(self.index), self.text[:num_prompt], sampling, 1.0), b"", 0.0, 1.0)
        self._chunks = [2, 1] if self.index == 0 and num_prompt > 3 else []

    def has_begun(self, decoding: bool) -> bool:
        """True once a chunk, or with `decoding` the whole prompt, has been run."""
        return self.seq.num_computed >= (self.seq.num_prompt_tokens if decoding else 1)

    @property
    def is_done(self) -> bool:
        """True once the whole text has been run."""
        return self.seq.num_computed >= len(self.text)

    @property
    def is_to_be_preempted(self) -> bool:
        """True at the one moment at which the script takes the first sequence's memory away."""
        return self.index == 0 and not self.is_back and self.seq.num_output_tokens > _PREEMPTED_AFTER

    @property
    def next_end(self) -> int:
        """Tokens computed after the next step."""
        size = self._chunks[0] if self._chunks else self.seq.num_uncomputed
        return self.seq.num_computed + size

    def next_item(self) -> ScheduledSequence:
        """What the next step runs of it."""
        return ScheduledSequence(self.seq, self.seq.num_computed, self.next_end - self.seq.num_computed)

    def advance(self) -> None:
        """Record that the step ran `next_item`, and append the token that follows in the text."""
        self.seq.num_computed = self.next_end
        del self._chunks[:1]
        if self.seq.num_uncomputed == 0:
            self.seq.token_ids = self.text[: len(self.seq.token_ids) + 1]

    def go_back(self) -> None:
        """Preempted: after one step without it, all of it is computed again, less what prefix reuse has."""
        self.seq.num_computed, self.seq.num_preemptions = 0, self.seq.num_preemptions + 1
        self._chunks, self.pause, self.is_back = [], 1, True
