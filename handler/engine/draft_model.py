"""`DraftRunner`: the draft model, which reads the texts of running sequences and guesses what follows them.

It has a runner and KV memory of its own. What it guesses decides no answer, so nothing that goes wrong here fails a
request: the sequence is guessed no more.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import msgspec
import numpy as np

from handler.engine.in_flight import InFlight
from handler.engine.step import forward, raise_if_fatal
from handler.engine.warm_up import warm_up_sequence
from handler.model.machine_memory import give_back, is_out_of_memory
from handler.runners.limits import Limits
from handler.runners.runner import Runner, StepLogits
from handler.sampling.transfer import read_back, upload
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import SamplingParams
from handler.speculation.model_drafter import Guess, Pass

logger = logging.getLogger(__name__)

# So many unread tokens run as decodes, which is how CUDA's graphs take them; more as a chunk of a prompt.
_MOST_ROWS = 4
# The copies choose no token by them.
_PLAIN = SamplingParams(max_tokens=1, seed=0, temperature=0.0)


@dataclass(slots=True)
class _Copy:
    """A sequence as the draft model has it, which shares nothing with the one it was made of.

    `seq.token_ids` are `num_text` tokens of the text, then guesses. Those that come true need not run again.
    """

    seq: Sequence
    num_text: int

    @classmethod
    def of(cls, original: Sequence) -> _Copy:
        """The text of `original`. Its prompt wants no log-probabilities."""
        request = msgspec.structs.replace(original.request, sampling=_PLAIN)
        seq = Sequence(request, original.worker, original.arrival_s, original.deadline_s)
        seq.fingerprint, seq.token_ids = original.fingerprint, list(original.token_ids)
        return cls(seq, len(seq.token_ids))

    def follow(self, text: list[int], draft: list[int]) -> int:
        """Become `text`, which has only grown, and `draft`. Returns how many tokens are to run: at least the last."""
        seq, wanted = self.seq, [*text[self.num_text :], *draft]
        num_same = 0
        for have, want in zip(seq.token_ids[self.num_text : seq.num_computed], wanted, strict=False):
            if have != want:
                break
            num_same += 1
        seq.token_ids[self.num_text :] = wanted
        seq.num_computed = min(seq.num_computed, self.num_text + num_same, len(seq.token_ids) - 1)
        self.num_text = len(text)
        return seq.num_uncomputed


class DraftRunner:
    """`DraftModel` over a `Runner`. It has a copy of each sequence in its own KV memory."""

    def __init__(self, runner: Runner, limits: Limits, vocab_size: int, in_flight: InFlight) -> None:
        """`vocab_size` is the served model's: no other token is guessed."""
        self.runner = runner
        self._limits = limits
        self._vocab_size = vocab_size
        self._kv = runner.kv_manager(limits)
        self._in_flight = in_flight
        self._copies: dict[Sequence, _Copy] = {}
        self._lost: set[Sequence] = set()
        # So many tokens of a text are known to be in the model's vocabulary.
        self._num_known: dict[Sequence, int] = {}

    def num_unread(self, seq: Sequence) -> int | None:
        """As `DraftModel.num_unread`. A text as long as the model's context cannot be guessed."""
        if len(seq.token_ids) >= self._limits.max_model_len:
            self._lose(seq)
        if seq in self._lost:
            return None
        copy = self._copies.get(seq)
        return len(seq.token_ids) if copy is None else copy.follow(seq.token_ids, [])

    def guess(self, seqs: list[Sequence], drafts: list[list[int]]) -> Pass:
        """As `DraftModel.guess`."""
        started_s = time.perf_counter()
        items = self._items(seqs, drafts)
        # Decodes come first in a batch.
        ordered = sorted(items, key=lambda seq: not items[seq].is_decode)
        found = self._run(ordered, [items[seq] for seq in ordered])
        num_rows = sum(item.num_tokens for item in items.values() if item.is_decode)
        num_read = sum(item.num_tokens for item in items.values()) - num_rows
        return Pass([found.get(seq) for seq in seqs], num_rows, num_read, time.perf_counter() - started_s)

    def forget(self, seq: Sequence) -> None:
        """As `DraftModel.forget`."""
        self._lost.discard(seq)
        self._num_known.pop(seq, None)
        copy = self._copies.pop(seq, None)
        if copy is not None:
            self._kv.release(copy.seq)

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """As `DraftModel.check_integrity`."""
        if not {*self._copies, *self._lost, *self._num_known} <= {*running}:
            raise RuntimeError("the draft model holds memory for a sequence that does not run")
        self._kv.check_integrity([copy.seq for copy in self._copies.values()])

    def warm_up(self) -> None:
        """Guess after a harmless prompt, so that the first request finds kernels compiled."""
        seq = warm_up_sequence(self.runner.vocab_size, self._limits.max_model_len)
        draft: list[int] = []
        for _ in range(2):
            for guess in self.guess([seq], [draft]).guesses:
                draft += [guess.token_id] if guess else []
        self.forget(seq)

    def _items(self, seqs: list[Sequence], drafts: list[list[int]]) -> dict[Sequence, ScheduledSequence]:
        """What to run of each sequence: few tokens as rows of a decode, more as a chunk, as far as a step may."""
        budget = self._limits.max_num_batched_tokens
        found: dict[Sequence, ScheduledSequence] = {}
        for seq, draft in zip(seqs, drafts, strict=True):
            if budget <= 0:
                break
            copy = self._copy(seq, draft)
            if copy is None:
                continue
            num_tokens, first = copy.num_uncomputed, copy.num_computed
            if num_tokens <= min(_MOST_ROWS, budget):
                found[seq] = ScheduledSequence(copy, first, num_tokens, tuple(copy.token_ids[first + 1 :]))
            else:
                num_tokens = min(num_tokens, budget)
                found[seq] = ScheduledSequence(copy, first, num_tokens)
            budget -= num_tokens
        return found

    def _copy(self, seq: Sequence, draft: list[int]) -> Sequence | None:
        """The copy of `seq` with `draft` after its text, and room for it; None if there is none, now or ever."""
        if seq in self._lost:
            return None
        if not self._knows_tokens(seq):
            self._lose(seq)
            return None
        copy = self._copies.get(seq)
        if copy is None:
            copy = _Copy.of(seq)
            if not self._kv.allocate(copy.seq):
                return None
            self._copies[seq] = copy
        copy.follow(seq.token_ids, draft)
        if not draft:
            self._kv.commit(copy.seq)
        if not self._kv.reserve(copy.seq, len(copy.seq.token_ids)):
            self._lose(seq)
            return None
        return copy.seq

    def _knows_tokens(self, seq: Sequence) -> bool:
        """Whether the model has a row for each token. The served model may have more tokens. Each is looked at once."""
        unknown = seq.token_ids[self._num_known.get(seq, 0) :]
        if any(token_id >= self.runner.vocab_size for token_id in unknown):
            return False
        self._num_known[seq] = len(seq.token_ids)
        return True

    def _lose(self, seq: Sequence) -> None:
        """Guess `seq` no more."""
        self.forget(seq)
        self._lost.add(seq)

    def _run(self, seqs: list[Sequence], items: list[ScheduledSequence]) -> dict[Sequence, Guess]:
        """One pass over `items` of `seqs`; the guess of each that was read to its end."""
        if not items:
            return {}
        batch = ScheduledBatch(items)
        try:
            with self._in_flight.running(batch):
                tokens = _likeliest(forward(self.runner, batch), self._vocab_size)
        except Exception as exc:
            raise_if_fatal(exc)
            logger.error("the draft model failed; %d sequences are guessed no more", len(seqs), exc_info=exc)
            for seq in seqs:
                self._lose(seq)
            if is_out_of_memory(exc):
                give_back()
            return {}
        found = {}
        for seq, item in zip(seqs, items, strict=True):
            item.seq.num_computed = item.start + item.num_tokens
            if item.seq in tokens:
                found[seq] = tokens[item.seq]
        return {seq: guess for seq, guess in found.items() if not self._is_spoilt(seq, guess)}

    def _is_spoilt(self, seq: Sequence, guess: Guess) -> bool:
        """True, and it is guessed no more, if the model's output is not a number."""
        if math.isfinite(guess.probability):
            return False
        self._kv.invalidate(self._copies[seq].seq)
        self._lose(seq)
        return True


def _likeliest(found: StepLogits, vocab_size: int) -> dict[Sequence, Guess]:
    """The likeliest token after each sequence that was read to its end."""
    ends = list(accumulate(1 + len(item.draft) for item in found.samples))
    if not ends:
        return {}
    rows = upload({"rows": np.array(ends) - 1}, found.logits.device)["rows"]
    logits = found.logits.index_select(0, rows)[:, :vocab_size].float()
    most = logits.max(dim=-1)
    probabilities, token_ids = read_back([(most.values - logits.logsumexp(-1)).exp(), most.indices])
    pairs = zip(found.samples, token_ids, probabilities, strict=True)
    return {item.seq: Guess(int(token_id), probability) for item, token_id, probability in pairs}
