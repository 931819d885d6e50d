"""`EngineCore`: the one loop that owns the model. Receive, schedule, run, sample, publish."""

from __future__ import annotations

import logging
import time
from collections import defaultdict

import torch

from handler.errors import BadModel
from handler.ipc import EngineSocket
from handler.protocol import (
    Abort,
    ErrorCode,
    Failed,
    FinishReason,
    FromEngine,
    GenerateRequest,
    Rejected,
    StepOutput,
    ToEngine,
)
from handler.runner import Runner
from handler.sampler import Sampled, sample
from handler.scheduler import ScheduledBatch, Scheduler
from handler.sequence import Sequence, SequenceStatus
from handler.status import StatusBoard

logger = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.1


class EngineCore:
    """Batches every request, token by token, over one `Runner`."""

    def __init__(self, runner: Runner, scheduler: Scheduler, socket: EngineSocket, board: StatusBoard) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.socket = socket
        self.board = board
        self._sequences: dict[str, Sequence] = {}
        self._outbox: defaultdict[bytes, list[FromEngine]] = defaultdict(list)
        self.stopping = False

    def run(self) -> None:
        """Step until `stopping`."""
        while not self.stopping:
            self.step(_IDLE_WAIT_S)

    def shut_down(self) -> None:
        """End what is still open with an error, and unbind."""
        for seq in list(self._sequences.values()):
            self._fail(seq, ErrorCode.DRAINING, "the server is shutting down")
        self._publish()
        self.socket.close()

    def step(self, idle_wait_s: float = 0.0) -> None:
        """One pass: at most one forward pass, whose tokens are sent before it returns."""
        self._receive(idle_wait_s if self.scheduler.idle else 0.0)
        self._expire()
        batch = self.scheduler.schedule()
        if batch.items:
            self._execute(batch)
        self._publish()
        self._report()

    def generate_for_warm_up(self, seq: Sequence) -> None:
        """Run `seq` to its end before anyone listens. Raises what a step raises."""
        self.scheduler.add(seq)
        while seq.status is not SequenceStatus.FINISHED:
            batch = self.scheduler.schedule()
            found = self.runner.run(batch)
            self.scheduler.advance(batch)
            for outcome in sample(found.logits, [seq], ()) if found.samples else ():
                if outcome.token_id is None:
                    raise BadModel("the model's first token is not a number; its weights may be damaged")
                self.scheduler.append_token(seq, outcome.token_id)

    def _receive(self, wait_s: float) -> None:
        for worker, messages in self.socket.receive(wait_s):
            for message in messages:
                self._accept(worker, message)

    def _accept(self, worker: bytes, message: ToEngine) -> None:
        if isinstance(message, Abort):
            self._abort(message.request_id, worker)
            return
        refusal = self._refusal(message)
        if refusal is not None:
            self._outbox[worker].append(refusal)
            return
        now = time.monotonic()
        seq = Sequence(message, worker, now, now + message.timeout_s)
        self._sequences[seq.request_id] = seq
        self.scheduler.add(seq)

    def _refusal(self, request: GenerateRequest) -> Rejected | None:
        """Why the engine does not take the request; the web side has checked all but the queue."""
        limits = self.scheduler.limits
        ids = request.prompt_token_ids
        if request.request_id in self._sequences:
            return Rejected(request.request_id, ErrorCode.INVALID, "request id is in use")
        if not ids or len(ids) >= limits.max_model_len:
            message = f"prompt must have 1 to {limits.max_model_len - 1} tokens. Given: {len(ids)}"
            return Rejected(request.request_id, ErrorCode.INVALID, message)
        if min(ids) < 0 or max(ids) >= self.runner.vocab_size:
            message = f"prompt token ids must be in [0, {self.runner.vocab_size})"
            return Rejected(request.request_id, ErrorCode.INVALID, message)
        bias = request.sampling.logit_bias
        if bias and not 0 <= min(bias) <= max(bias) < self.runner.vocab_size:
            message = f"logit_bias token ids must be in [0, {self.runner.vocab_size})"
            return Rejected(request.request_id, ErrorCode.INVALID, message)
        if self.scheduler.full:
            return Rejected(request.request_id, ErrorCode.OVERLOADED, "Model is overloaded")
        return None

    def _abort(self, request_id: str, worker: bytes) -> None:
        seq = self._sequences.get(request_id)
        if seq is not None and seq.worker == worker:
            self._end(seq, FinishReason.ABORTED)
            self.board["aborts"] += 1

    def _expire(self) -> None:
        for seq in list(self.scheduler.expired(time.monotonic())):
            self._fail(seq, ErrorCode.DEADLINE, "the request's time was used up before it finished")

    def _execute(self, batch: ScheduledBatch) -> None:
        """Run, sample and record one batch. An exception fails the sequences of this batch and no others."""
        now = time.monotonic()
        for item in batch.items:
            if item.seq.first_scheduled_s is None:
                item.seq.first_scheduled_s = now
        try:
            found = self.runner.run(batch)
            seqs = [item.seq for item in found.samples]
            sampled = sample(found.logits, seqs, self.scheduler.limits.eos_token_ids) if seqs else []
        except Exception as exc:
            logger.exception("a step failed")
            for item in batch.items:
                self._fail(item.seq, *_failure(exc))
            if isinstance(exc, torch.AcceleratorError):
                raise  # the CUDA context is unusable; PID 1 restarts the engine
            return
        self.scheduler.advance(batch)
        for seq, outcome in zip(seqs, sampled, strict=True):
            self._record(seq, outcome)
        self._count(batch, len(seqs))

    def _record(self, seq: Sequence, outcome: Sampled) -> None:
        if outcome.token_id is None:
            self._fail(seq, ErrorCode.NUMERICS, "the model's output for this request is not a number")
            return
        reason = self.scheduler.append_token(seq, outcome.token_id)
        if reason is not None:
            del self._sequences[seq.request_id]
        started = seq.first_scheduled_s or seq.arrival_s
        self._outbox[seq.worker].append(
            StepOutput(
                seq.request_id,
                [outcome.token_id],
                None if outcome.logprob is None else [outcome.logprob],
                finish_reason=reason,
                num_cached_tokens=seq.num_cached,
                queue_time_s=started - seq.arrival_s,
                inference_time_s=time.monotonic() - started,
            )
        )

    def _fail(self, seq: Sequence, code: ErrorCode, message: str) -> None:
        slot = seq.slot
        self._end(seq, FinishReason.ABORTED)
        if code is ErrorCode.NUMERICS and slot >= 0:
            self.runner.erase(slot)
        self._outbox[seq.worker].append(Failed(seq.request_id, code, message))
        self.board["failures"] += 1

    def _end(self, seq: Sequence, reason: FinishReason) -> None:
        if seq.status is not SequenceStatus.FINISHED:
            self.scheduler.finish(seq, reason)
        self._sequences.pop(seq.request_id, None)

    def _publish(self) -> None:
        """One frame for each worker; the requests of a worker that cannot be reached are dropped."""
        outbox, self._outbox = self._outbox, defaultdict(list)
        for worker, messages in outbox.items():
            if not self.socket.send(worker, messages):
                lost = [seq for seq in self._sequences.values() if seq.worker == worker]
                logger.warning("a web worker is gone; %d of its requests end", len(lost))
                for seq in lost:
                    self._end(seq, FinishReason.ABORTED)
                    self.board["aborts"] += 1

    def _count(self, batch: ScheduledBatch, num_sampled: int) -> None:
        self.board["steps"] += 1
        self.board["generated_tokens"] += num_sampled
        self.board["prompt_tokens"] += sum(item.num_tokens for item in batch.items if item.num_tokens > 1)

    def _report(self) -> None:
        self.board.beat()
        self.board["running"] = len(self.scheduler.running)
        self.board["waiting"] = len(self.scheduler.waiting)
        self.board["kv_used_tokens"] = self.scheduler.kv.used_tokens
        self.board["preemptions"] = self.scheduler.num_preemptions


def _failure(exc: Exception) -> tuple[ErrorCode, str]:
    """What a client may know of an exception in a step."""
    # torch raises RuntimeError, not MemoryError, when a CPU allocation fails.
    if isinstance(exc, torch.OutOfMemoryError) or "alloc_cpu" in str(exc):
        return ErrorCode.OUT_OF_MEMORY, "out of memory while generating"
    return ErrorCode.INTERNAL, "generation failed"
