"""`EngineCore`: the one loop that owns the model. Receive, schedule, run, sample, publish."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from handler.engine.adapters.registry import AdapterRegistry
from handler.engine.in_flight import InFlight
from handler.engine.intake import Intake
from handler.engine.ipc import EngineSocket
from handler.engine.step import Ran, prove_alive, raise_if_fatal, run_step
from handler.engine.step_metrics import count_draft, measured_step
from handler.engine.step_threads import StepThreads
from handler.runners.runner import Runner
from handler.sampling.grammar import GrammarCompiler, GrammarError
from handler.sampling.prompt_scores import score_prompt
from handler.sampling.sampler import Sampled, sample
from handler.scheduling.scheduler import ScheduledBatch, Scheduler
from handler.scheduling.sequence import Sequence, SequenceStatus
from handler.seam.errors import BadModel
from handler.seam.protocol import (
    Abort,
    AdapterErrorCode,
    AdapterRefused,
    AdapterReply,
    EngineMessage,
    ErrorCode,
    Failed,
    FinishReason,
    GenerateRequest,
    Rejected,
    StepOutput,
    ToEngine,
)
from handler.seam.status import StatusBoard

logger = logging.getLogger(__name__)
T = TypeVar("T")

_IDLE_WAIT_S = 0.1
# While a grammar is being compiled or an adapter read.
_HELPER_WAIT_S = 0.002
_PING_S = 0.5
# Board fields that the scheduler counts from 0; the core adds what earlier engines counted.
_TOTALS = ("preemptions", "prefix_query_tokens", "prefix_hit_tokens", "adapter_loads", "adapter_evictions")


class EngineCore:
    """Batches every request, token by token, over one `Runner`."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        socket: EngineSocket,
        board: StatusBoard,
        grammars: GrammarCompiler | None = None,
        in_flight: InFlight | None = None,
        threads: StepThreads | None = None,
        adapters: AdapterRegistry | None = None,
    ) -> None:
        self.runner = runner
        self.scheduler = scheduler
        self.socket = socket
        self.board = board
        self.intake = Intake(scheduler.limits, runner.vocab_size, grammars)
        self.in_flight = in_flight or InFlight(board)
        self.adapters = adapters
        # None: torch's number of threads stays as it is.
        self._threads = threads
        self._sequences: dict[str, Sequence] = {}
        self._inherited = [board[name] for name in _TOTALS]
        self._outbox: defaultdict[bytes, list[EngineMessage]] = defaultdict(list)
        self._ping_due_s = 0.0
        self.stopping = False

    def run(self) -> None:
        """Step until `stopping`."""
        while not self.stopping:
            self.step(_IDLE_WAIT_S)

    def keep_threads(self) -> None:
        """Compute by as many threads as now, whatever the limit becomes, if numbers depend on how many there are."""
        if self._threads is not None and not self.runner.same_by_any_threads:
            self._threads.keep()

    def shut_down(self) -> None:
        """Fail all open requests and close the socket."""
        if self.adapters is not None:
            self._reply(self.adapters.stop())
        for seq in list(self._sequences.values()):
            self._fail(seq, ErrorCode.DRAINING, "the server is shutting down")
        self._publish()
        self.socket.close()

    def step(self, idle_wait_s: float = 0.0) -> None:
        """Do at most one forward pass and send its tokens. An idle engine waits `idle_wait_s` for a request."""
        self._receive(self._wait_s(idle_wait_s))
        if self.adapters is not None:
            self._reply(self.adapters.finished())
        self._queue_compiled()
        self._expire()
        started_s = time.perf_counter()
        batch = self._with_adapters(self.scheduler.schedule())
        only_decodes = batch.only_decodes
        if batch.items:
            with measured_step(batch):
                self._execute(batch)
        self._ping_workers()
        self._publish()
        if only_decodes and self.scheduler.drafter is not None:
            self.scheduler.drafter.observe(batch.num_tokens, time.perf_counter() - started_s)
        if self.adapters is not None:
            self.adapters.let_go(lambda: {seq.registration for seq in self._sequences.values()})
        self._report()
        self.scheduler.audit()

    def generate_for_warm_up(self, *seqs: Sequence) -> None:
        """Run `seqs` to their ends, bypassing the socket. Raises BadModel for NaN logits, and what the model raises."""
        for seq in seqs:
            self.scheduler.add(seq)
        while not self.scheduler.idle:
            batch = self.scheduler.schedule()
            with self.in_flight.running(batch):
                found = self.runner.run(batch)
            for item, rows in found.prompt:
                score_prompt(rows, item)
            for item in batch.items:
                self.scheduler.advance(item)
            sampled = [item.seq for item in found.samples]
            for seq, outcome in zip(sampled, sample(found.logits, sampled, ()) if sampled else (), strict=True):
                self._take_warm_up(seq, outcome)

    def _take_warm_up(self, seq: Sequence, outcome: Sampled) -> None:
        if outcome.token_id is None:
            raise BadModel("the model's first token is not a number; its weights may be damaged")
        if seq.constraint is not None:
            seq.constraint.accept(outcome.token_id)
        self.scheduler.append_token(seq, outcome.token_id)

    def _wait_s(self, idle_wait_s: float) -> float:
        """How long a step may wait for a frame: not while there is work, briefly while another thread works for it."""
        if not self.scheduler.idle:
            return 0.0
        reading = self.adapters is not None and self.adapters.pending
        return min(idle_wait_s, _HELPER_WAIT_S) if self.intake.pending or reading else idle_wait_s

    def _receive(self, wait_s: float) -> None:
        for worker, messages in self.socket.receive(wait_s):
            for message in messages:
                self._handle(worker, message)

    def _handle(self, worker: bytes, message: ToEngine) -> None:
        if isinstance(message, Abort):
            self._abort(message.request_id, worker)
        elif isinstance(message, GenerateRequest):
            self._add_request(worker, message)
        elif self.adapters is not None:
            reply = self.adapters.handle(worker, message)
            self._reply([] if reply is None else [(worker, reply)])
        else:
            reason = self.runner.adapters_obstacle or "This engine takes no adapters"
            self._reply([(worker, AdapterRefused(message.request_id, AdapterErrorCode.BAD, reason))])

    def _reply(self, replies: Iterable[tuple[bytes, AdapterReply]]) -> None:
        for worker, reply in replies:
            self._outbox[worker].append(reply)

    def _with_adapters(self, batch: ScheduledBatch) -> ScheduledBatch:
        """`batch` once its adapters are in their slots; sequences whose adapter could not be loaded fail."""
        faults = self.adapters.fill_slots() if self.adapters is not None else {}
        if self.adapters is None or not faults:
            return batch
        for seq in list(self.scheduler.running):
            fault = faults.get(seq.registration)
            if fault is not None:
                full = fault.code is AdapterErrorCode.FULL
                self._fail(seq, ErrorCode.OUT_OF_MEMORY if full else ErrorCode.INTERNAL, str(fault))
        self.adapters.give_up(faults)
        return ScheduledBatch([item for item in batch.items if item.seq.status is SequenceStatus.RUNNING])

    def _add_request(self, worker: bytes, request: GenerateRequest) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            self._outbox[worker].append(refusal)
            return
        now = time.monotonic()
        seq = Sequence(request, worker, now, now + request.timeout_s)
        if request.adapter is not None:
            seq.registration = self._registration(request.adapter) or ""
        self._sequences[seq.request_id] = seq
        self._guard(seq, self._enqueue, seq)

    def _enqueue(self, seq: Sequence) -> None:
        self.in_flight.identify(seq)
        if not self.intake.needs_grammar(seq, partial(self.in_flight.compiling, seq)):
            self.scheduler.add(seq)

    def _queue_compiled(self) -> None:
        """Queue the sequences whose grammar has been compiled; reject those whose grammar is wrong."""
        for ready in self.intake.ready():
            if isinstance(ready, Sequence):
                self.scheduler.add(ready)
            else:
                seq = self._sequences.pop(ready.request_id)
                seq.status = SequenceStatus.FINISHED
                self._outbox[seq.worker].append(ready)

    def _refusal(self, request: GenerateRequest) -> Rejected | None:
        """Why the engine rejects the request; None if it accepts it."""
        if request.request_id in self._sequences:
            return Rejected(request.request_id, ErrorCode.INVALID, "request id is in use")
        if request.adapter is not None and self._registration(request.adapter) is None:
            return Rejected(
                request.request_id, ErrorCode.UNKNOWN_ADAPTER, f"Adapter {request.adapter} is not registered"
            )
        # Sequences whose grammar is being compiled count too: they join the queue without another check.
        if not self.scheduler.has_room(len(request.prompt_token_ids), self.intake.waiting()):
            return Rejected(request.request_id, ErrorCode.OVERLOADED, "Model is overloaded")
        return self.intake.refusal(request) or self.in_flight.refusal(request)

    def _registration(self, adapter: str) -> str | None:
        return self.adapters.registration(adapter) if self.adapters is not None else None

    def _abort(self, request_id: str, worker: bytes) -> None:
        seq = self._sequences.get(request_id)
        if seq is not None and seq.worker == worker:
            self._end(seq, FinishReason.ABORTED)
            self.board["aborts"] += 1

    def _expire(self) -> None:
        now = time.monotonic()
        late = [seq for seq in self.intake.waiting() if seq.deadline_s <= now]
        for seq in (*late, *self.scheduler.expired(now)):
            self._fail(seq, ErrorCode.DEADLINE, "the request's time was used up before it finished")

    def _execute(self, batch: ScheduledBatch) -> None:
        """Run, sample and record one batch. An exception that one sequence causes ends that sequence alone."""
        now = time.monotonic()
        for item in batch.items:
            if item.seq.first_scheduled_s is None:
                item.seq.first_scheduled_s = now
        ran: list[Ran] = []
        for part in self.in_flight.parts(batch):
            with self.in_flight.running(part):
                ran += self._run(part)
        num_before = sum(len(each.item.seq.token_ids) for each in ran)
        for each in ran:
            self._guard(each.item.seq, self._settle, each)
        self._count(batch, sum(len(each.item.seq.token_ids) for each in ran) - num_before)
        if all(each.failed for each in ran):
            prove_alive(self.runner, self.scheduler)

    def _run(self, batch: ScheduledBatch) -> list[Ran]:
        with self._threads.used(batch.num_tokens) if self._threads else nullcontext():
            return run_step(self.runner, batch, self.scheduler.limits.eos_token_ids)

    def _guard(self, seq: Sequence, action: Callable[[T], None], subject: T) -> None:
        """Run `action`; an exception fails the request of `seq` and no other."""
        try:
            action(subject)
        except Exception as exc:
            raise_if_fatal(exc)  # PID 1 restarts the engine
            logger.exception("a request failed")
            self._fail(seq, ErrorCode.INTERNAL, "generation failed")

    def _settle(self, ran: Ran) -> None:
        """Record that the item's tokens are in the cache and the tokens sampled after them; send these at once."""
        seq, outcomes = ran.item.seq, ran.sampled
        if ran.failed:
            self._fail(seq, outcomes[0].error or ErrorCode.INTERNAL, outcomes[0].message)
            return
        if not outcomes:
            self.scheduler.advance(ran.item)
            return
        if self.scheduler.drafter is not None:
            count_draft(len(ran.item.draft), len(outcomes) - 1)
        num_appended, reason, failure = 0, None, None
        for outcome in outcomes:
            self.scheduler.advance(ran.item, num_appended)
            try:
                reason = self._append(seq, outcome)
            except GrammarError as exc:
                failure = str(exc)
                break
            num_appended += 1
            if reason is not None:
                break
        if num_appended:
            self._outbox[seq.worker].append(_step_output(seq, outcomes[:num_appended], reason))
        if failure is not None:
            self._fail(seq, ErrorCode.INTERNAL, failure)

    def _append(self, seq: Sequence, outcome: Sampled) -> FinishReason | None:
        """Append a sampled token to its sequence; why that ends there, or None. Raises GrammarError."""
        assert outcome.token_id is not None
        complete = seq.constraint is not None and seq.constraint.accept(outcome.token_id)
        reason = self.scheduler.append_token(seq, outcome.token_id)
        if complete and reason is None:
            reason = FinishReason.EOS
            self.scheduler.finish(seq, reason)
        if reason is not None:
            del self._sequences[seq.request_id]
            self.in_flight.finished(seq)
        return reason

    def _fail(self, seq: Sequence, code: ErrorCode, message: str) -> None:
        if code is ErrorCode.NUMERICS:
            self.scheduler.kv.invalidate(seq)
        self._end(seq, FinishReason.ABORTED)
        self._outbox[seq.worker].append(Failed(seq.request_id, code, message))
        self.board["failures"] += 1

    def _end(self, seq: Sequence, reason: FinishReason) -> None:
        if seq in self.intake.waiting():
            self.intake.forget(seq)
        elif seq.status is not SequenceStatus.FINISHED:
            self.scheduler.finish(seq, reason)
        self._sequences.pop(seq.request_id, None)

    def _ping_workers(self) -> None:
        """Twice a second, send a frame to every worker with open requests and restore the socket file if it is gone.

        A dead worker is thus noticed even if all its requests are queued.
        """
        now = time.monotonic()
        if now >= self._ping_due_s:
            self._ping_due_s = now + _PING_S
            self.socket.restore()
            for seq in self._sequences.values():
                self._outbox[seq.worker] += []

    def _publish(self) -> None:
        """Send one frame to each worker; abort the requests of a worker that cannot be reached."""
        outbox, self._outbox = self._outbox, defaultdict(list)
        for worker, messages in outbox.items():
            if not self.socket.send(worker, messages):
                lost = [seq for seq in self._sequences.values() if seq.worker == worker]
                logger.warning("a web worker is gone; %d of its requests are aborted", len(lost))
                for seq in lost:
                    self._end(seq, FinishReason.ABORTED)
                    self.board["aborts"] += 1

    def _count(self, batch: ScheduledBatch, num_sampled: int) -> None:
        self.board["steps"] += 1
        self.board["generated_tokens"] += num_sampled
        self.board["prompt_tokens"] += sum(item.num_prompt_tokens for item in batch.items)

    def _report(self) -> None:
        self.board.beat()
        self.board["engine_threads"] = self._threads.most if self._threads else 0
        self.board["running"] = len(self.scheduler.running)
        self.board["waiting"] = len(self.scheduler.waiting)
        self.board["waiting_tokens"] = self.scheduler.waiting_tokens
        self.board["kv_used_tokens"] = self.scheduler.kv.used_tokens
        if self.adapters is not None:
            self.board["adapters_registered"] = self.adapters.num_registered
            self.board["adapters_resident"] = self.adapters.slots.num_resident
            self.board["adapter_bytes"] = self.adapters.num_bytes
        for name, before, count in self._totals():
            self.board[name] = before + count

    def _totals(self) -> Iterator[tuple[str, int, int]]:
        """Field, total of earlier engines and own count: a restarted engine continues its predecessor's totals."""
        kv = self.scheduler.kv
        adapters = self.adapters
        changes = (0, 0) if adapters is None else (adapters.num_loads, adapters.slots.num_evictions)
        counts = (self.scheduler.num_preemptions, kv.prefix_query_tokens, kv.prefix_hit_tokens, *changes)
        yield from zip(_TOTALS, self._inherited, counts, strict=True)


def _step_output(seq: Sequence, outcomes: list[Sampled], reason: FinishReason | None) -> StepOutput:
    """The message for sampled tokens, the newest of `seq`; the first one carries the prompt's log-probabilities."""
    started = seq.first_scheduled_s or seq.arrival_s
    first = seq.num_output_tokens == len(outcomes) and seq.sampling.num_prompt_logprobs is not None
    logprobs = [outcome.logprob for outcome in outcomes if outcome.logprob is not None]
    return StepOutput(
        seq.request_id,
        seq.token_ids[-len(outcomes) :],
        logprobs or None,
        prompt_logprobs=seq.prompt_logprobs if first else None,
        finish_reason=reason,
        num_cached_tokens=seq.num_cached,
        queue_time_s=started - seq.arrival_s,
        inference_time_s=time.monotonic() - started,
        start=seq.num_output_tokens - len(outcomes),
    )
