"""One step of a batch, with faults isolated: a sequence that makes the step fail fails alone.

A step that raises has sent nothing yet, and running the same tokens again writes the same keys and values to the same
cache positions. The batch is therefore bisected and run again until the failing sequence is found. If memory runs out,
the newest sequence fails instead, because the oldest are closest to finishing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from handler.engine.forward_thread import ForwardThread, is_compile_failure
from handler.engine.step_metrics import measured_forward
from handler.engine.warm_up import warm_up_sequence
from handler.model.machine_memory import give_back, is_out_of_memory
from handler.runners.runner import Runner, StepLogits
from handler.sampling.grammar import GrammarError
from handler.sampling.prompt_scores import score_prompt
from handler.sampling.sampler import Sampled, sample
from handler.sampling.transfer import upload
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence, Scheduler
from handler.scheduling.sequence import Sequence
from handler.seam.errors import EngineBroken, one_line
from handler.seam.protocol import ErrorCode

logger = logging.getLogger(__name__)

# One per process, because oneDNN's state is per process and thread.
_forward_thread = ForwardThread()
_FAILED = Sampled(None, error=ErrorCode.INTERNAL, message="generation failed")
_OUT_OF_MEMORY = Sampled(None, error=ErrorCode.OUT_OF_MEMORY, message="out of memory while generating")


@dataclass(frozen=True, slots=True)
class Ran:
    """Result of one item: `sampled` are its tokens or its failure, none for a chunk that does not reach the end.

    All but the first answer the item's draft: the token before each of them is the draft's.
    """

    item: ScheduledSequence
    sampled: list[Sampled]

    @property
    def failed(self) -> bool:
        """True if the sequence cannot go on."""
        return bool(self.sampled) and self.sampled[0].token_id is None


def run_step(runner: Runner, batch: ScheduledBatch, eos_token_ids: Collection[int]) -> list[Ran]:
    """Run and sample `batch`. Returns one `Ran` per item; its item may be the one that `Runner.retry` made.

    Raises torch.AcceleratorError, after which the device is unusable.
    """
    return _Step(runner, eos_token_ids).run(batch.items)


def forward(runner: Runner, batch: ScheduledBatch) -> StepLogits:
    """One pass of `runner`, in the thread for it. Raises what the model raises."""
    try:
        return _forward_thread.call(lambda: runner.run(batch))
    except RuntimeError as exc:
        if is_compile_failure(exc):
            _forward_thread.replace_soon()
        raise


def prove_alive(runner: Runner, scheduler: Scheduler) -> None:
    """Run the warm-up prompt after a step in which every sequence failed. Raises EngineBroken if it fails too."""
    seq = warm_up_sequence(runner.vocab_size, scheduler.limits.max_model_len)
    kv = scheduler.kv
    if not kv.allocate(seq):
        return
    try:
        if not kv.reserve(seq, len(seq.token_ids)):
            return
        item = ScheduledSequence(seq, seq.num_computed, seq.num_uncomputed)
        (ran,) = run_step(runner, ScheduledBatch([item]), ())
    finally:
        kv.release(seq)
    if ran.failed:
        raise EngineBroken("the model fails on every prompt")


class _Step:
    def __init__(self, runner: Runner, eos_token_ids: Collection[int]) -> None:
        self._runner = runner
        self._eos_token_ids = eos_token_ids
        self._freed = False

    def run(self, items: list[ScheduledSequence]) -> list[Ran]:
        dropped: list[Ran] = []
        while items:
            try:
                return self._attempt(items) + dropped
            except Exception as exc:  # noqa: BLE001 - a model may raise anything; _bisect logs it
                raise_if_fatal(exc)
                if not _is_out_of_memory(exc):
                    return self._bisect(items, exc) + dropped
                # The traceback's frames hold the tensors that filled the memory.
                message = one_line(exc.with_traceback(None), 200)
            if self._freed:
                # Logits of a whole prompt take far more than one row of each sequence does.
                costly = max(items, key=lambda item: (item.scores_prompt, item.seq.arrival_s))
                which = "one that wants logits of its prompt" if costly.scores_prompt else "the newest one"
                logger.error("out of memory with %d sequences; %s fails: %s", len(items), which, message)
                dropped.append(Ran(costly, [_OUT_OF_MEMORY]))
                items = [item for item in items if item is not costly]
            else:
                self._freed = True
                give_back()
            items = self._again(items)
        return dropped

    def _bisect(self, items: list[ScheduledSequence], error: Exception) -> list[Ran]:
        if len(items) == 1:
            fields = {"request_id": items[0].seq.request_id}
            logger.error("a request failed in the model", exc_info=error, extra={"fields": fields})
            return [Ran(items[0], [_FAILED])]
        middle = len(items) // 2
        return self.run(self._again(items[:middle])) + self.run(self._again(items[middle:]))

    def _again(self, items: list[ScheduledSequence]) -> list[ScheduledSequence]:
        """The items of a failed pass, prepared to run again: without drafts, which may be why it failed."""
        return [self._runner.retry(item.without_draft()) for item in items]

    def _attempt(self, items: list[ScheduledSequence]) -> list[Ran]:
        batch = ScheduledBatch(items)
        with measured_forward(batch):
            found = forward(self._runner, batch)
        scored = {item.seq.request_id: _score(rows, item) for item, rows in found.prompt}
        outcomes = {item.seq.request_id: sampled for item, sampled in self._choose(found)}
        outcomes |= {request_id: [failure] for request_id, failure in scored.items() if failure is not None}
        ran = [Ran(item, outcomes.get(item.seq.request_id, [])) for item in items]
        spoilt = [each.item for each in ran if each.item.draft and each.sampled[0].error is ErrorCode.NUMERICS]
        return [each for each in ran if each.item not in spoilt] + self._without_drafts(spoilt)

    def _without_drafts(self, items: list[ScheduledSequence]) -> list[Ran]:
        """Items whose own output is not a number, perhaps by their drafts: a kernel may sum 0 times NaN over rows."""
        for item in items:
            self._runner.discard(item, 0)
        return self.run(self._again(items))

    def _choose(self, found: StepLogits) -> Iterator[tuple[ScheduledSequence, list[Sampled]]]:
        """The tokens of each item that chooses some. Whatever is drafted, each is chosen as if it came alone."""
        heads = [_and_ahead(item) for item in found.samples]
        seqs = [seq for head in heads for seq in head]
        sampled = iter(self._sample(_rows_of(found, heads), seqs))
        for item, head in zip(found.samples, heads, strict=True):
            outcomes = [next(sampled) for _ in head]
            kept = _verified(item.draft, outcomes)
            if any(outcome.error is ErrorCode.NUMERICS for outcome in outcomes[len(kept) :]):
                self._runner.discard(item, len(kept) - 1)
            yield item, kept

    def _sample(self, logits: Tensor, seqs: list[Sequence]) -> list[Sampled]:
        """A token for each row; bisects to find rows that make sampling fail, without another forward pass."""
        if not seqs:
            return []
        try:
            return sample(logits, seqs, self._eos_token_ids)
        except Exception as exc:  # noqa: BLE001 - the boundary around one request
            raise_if_fatal(exc)
            if len(seqs) == 1:
                return [_failure(exc)]
        middle = len(seqs) // 2
        return self._sample(logits[:middle], seqs[:middle]) + self._sample(logits[middle:], seqs[middle:])


def _and_ahead(item: ScheduledSequence) -> list[Sequence]:
    """The sequence, and what it will be after each token of the draft. A draft that breaks a grammar ends there."""
    if not item.draft:
        return [item.seq]
    try:
        return [item.seq, *item.seq.ahead(item.draft)]
    except GrammarError:  # the sequence's own row reports it
        return [item.seq]


def _rows_of(found: StepLogits, heads: list[list[Sequence]]) -> Tensor:
    """The logits of `heads`, without those after a draft that was cut."""
    ends = list(accumulate((1 + len(item.draft) for item in found.samples), initial=0))
    rows = [first + i for first, head in zip(ends, heads, strict=False) for i in range(len(head))]
    if len(rows) == ends[-1]:
        return found.logits
    return found.logits.index_select(0, upload({"rows": np.array(rows)}, found.logits.device)["rows"])


def _verified(draft: tuple[int, ...], sampled: list[Sampled]) -> list[Sampled]:
    """`sampled` up to the first token that the draft did not guess.

    What fails after a draft is left to the next step, in which nothing is guessed: it may not fail there.
    """
    for i, outcome in enumerate(sampled):
        if i and outcome.token_id is None:
            return sampled[:i]
        if i == len(draft) or outcome.token_id != draft[i]:
            return sampled[: i + 1]
    return sampled


def _score(rows: Tensor, item: ScheduledSequence) -> Sampled | None:
    """Score a chunk's prompt. Returns the failure of this request alone: its neighbours are not the cause."""
    try:
        score_prompt(rows, item)
    except Exception as exc:  # noqa: BLE001 - the boundary around one request
        return _failure(exc)
    return None


def _failure(exc: Exception) -> Sampled:
    """The client's view of an exception that one request raised."""
    raise_if_fatal(exc)
    if _is_out_of_memory(exc):
        return _OUT_OF_MEMORY
    if isinstance(exc, GrammarError):
        return Sampled(None, error=ErrorCode.INTERNAL, message=str(exc))
    logger.error("a request failed while its token was chosen", exc_info=exc)
    return _FAILED


def raise_if_fatal(exc: Exception) -> None:
    """Raise `exc` if the device is unusable after it. torch uses one class for all errors of the CUDA runtime, but
    after a lack of memory the context goes on."""
    if isinstance(exc, torch.AcceleratorError) and not _is_out_of_memory(exc):
        raise exc


def _is_out_of_memory(exc: BaseException) -> bool:
    """oneDNN reports every failure to compile a kernel alike; for a kernel it supports, the cause is lack of memory."""
    return is_compile_failure(exc) or is_out_of_memory(exc)
