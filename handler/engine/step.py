"""One step of many sequences in which each stands alone: whoever makes it fail is found, and fails by itself.

A step that raises has told nobody anything yet, and running the same tokens again writes the same keys and values to
the same places, so it is run again by halves until the exception has one sequence to itself. Where memory runs out the
newest sequence gives way instead, for the oldest are closest to their end.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from handler.engine.forward_thread import ForwardThread, is_spoiling
from handler.engine.step_metrics import measured_forward
from handler.engine.warm_up import warm_up_sequence
from handler.runners.runner import Runner
from handler.sampling.grammar import GrammarError
from handler.sampling.sampler import Sampled, sample, score_prompt
from handler.scheduling.scheduler import ScheduledBatch, ScheduledSequence, Scheduler
from handler.scheduling.sequence import Sequence
from handler.seam.errors import EngineBroken
from handler.seam.protocol import ErrorCode

logger = logging.getLogger(__name__)


_FAILED = Sampled(None, error=ErrorCode.INTERNAL, message="generation failed")
# Of the process, for so is what spoils its threads.
_forward_thread = ForwardThread()
_OUT_OF_MEMORY = Sampled(None, error=ErrorCode.OUT_OF_MEMORY, message="out of memory while generating")


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of one item: `sampled` is its token or its failure, None for a chunk that chooses no token."""

    item: ScheduledSequence
    sampled: Sampled | None

    @property
    def failed(self) -> bool:
        """True if the sequence cannot go on."""
        return self.sampled is not None and self.sampled.token_id is None


def run_step(runner: Runner, batch: ScheduledBatch, eos_token_ids: Collection[int]) -> list[Ran]:
    """Run and sample `batch`; every item, or what `Runner.retry` made of it, comes back once.

    Raises torch.AcceleratorError: after it the device answers nothing any more, whoever asks.
    """
    return _Step(runner, eos_token_ids).run(batch.items)


def prove_alive(runner: Runner, scheduler: Scheduler) -> None:
    """Nothing survived a step. Raises EngineBroken unless a harmless prompt still gets through the model."""
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
        given_up: list[Ran] = []
        while items:
            try:
                return self._attempt(items) + given_up
            except torch.AcceleratorError:
                raise
            except Exception as exc:  # noqa: BLE001 - a model may raise anything; the culprit is logged below
                if not is_out_of_memory(exc):
                    return self._by_halves(items, exc) + given_up
                if is_spoiling(exc):
                    _forward_thread.spoil()
                # Its frames hold the tensors that filled the memory.
                message = _one_line(exc.with_traceback(None))
            if self._freed:
                newest = max(items, key=lambda item: item.seq.arrival_s)
                logger.error("out of memory with %d sequences; the newest gives way: %s", len(items), message)
                given_up.append(Ran(newest, _OUT_OF_MEMORY))
                items = [item for item in items if item is not newest]
            else:
                self._freed = True
                _free_caches()
            items = self._again(items)
        return given_up

    def _by_halves(self, items: list[ScheduledSequence], error: Exception) -> list[Ran]:
        if len(items) == 1:
            fields = {"request_id": items[0].seq.request_id}
            logger.error("a request failed in the model", exc_info=error, extra={"fields": fields})
            return [Ran(items[0], _FAILED)]
        middle = len(items) // 2
        return self.run(self._again(items[:middle])) + self.run(self._again(items[middle:]))

    def _again(self, items: list[ScheduledSequence]) -> list[ScheduledSequence]:
        """Items that have been in a pass that failed, fit for another."""
        return [self._runner.retry(item) for item in items]

    def _attempt(self, items: list[ScheduledSequence]) -> list[Ran]:
        batch = ScheduledBatch(items)
        with measured_forward(batch):
            found = _forward_thread.call(lambda: self._runner.run(batch))
        for item, rows in found.prompt:
            score_prompt(rows, item)
        seqs = [item.seq for item in found.samples]
        sampled = self._sample(found.logits, seqs)
        outcomes = {seq.request_id: outcome for seq, outcome in zip(seqs, sampled, strict=True)}
        return [Ran(item, outcomes.get(item.seq.request_id)) for item in items]

    def _sample(self, logits: Tensor, seqs: list[Sequence]) -> list[Sampled]:
        """A token for each row; rows that make sampling fail are found by halves, without another forward pass."""
        if not seqs:
            return []
        try:
            return sample(logits, seqs, self._eos_token_ids)
        except torch.AcceleratorError:
            raise
        except Exception as exc:  # noqa: BLE001 - the boundary around one request
            if len(seqs) == 1:
                return [_failure(exc)]
        middle = len(seqs) // 2
        return self._sample(logits[:middle], seqs[:middle]) + self._sample(logits[middle:], seqs[middle:])


def _failure(exc: Exception) -> Sampled:
    """What a client may know of an exception that one request raised."""
    if isinstance(exc, torch.AcceleratorError):
        raise exc
    if is_out_of_memory(exc):
        return _OUT_OF_MEMORY
    if isinstance(exc, GrammarError):
        return Sampled(None, error=ErrorCode.INTERNAL, message=str(exc))
    logger.error("a request failed while its token was chosen", exc_info=exc)
    return _FAILED


def is_out_of_memory(exc: BaseException) -> bool:
    """True if memory ran out. On CPU torch raises a plain RuntimeError, whose words are all there is to go by.

    oneDNN has one word for all failures to compile a kernel it has accepted; memory is what it can lack.
    """
    if isinstance(exc, MemoryError | torch.OutOfMemoryError) or is_spoiling(exc):
        return True
    text = str(exc)
    return isinstance(exc, RuntimeError) and ("alloc_cpu" in text or "bad_alloc" in text or "allocate memory" in text)


def _free_caches() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]
