"""What the engine leaves written while it computes, so that PID 1 knows what it died of and whether it hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from handler.engine.hang_limit import HangLimit
from handler.scheduling.scheduler import ScheduledBatch
from handler.scheduling.sequence import Sequence
from handler.seam.protocol import ErrorCode, GenerateRequest, Rejected
from handler.seam.status import StatusBoard
from handler.seam.suspects import MAX_DEATHS, Hazards, Suspects, fingerprint


class InFlight:
    """Names what runs, keeps suspects apart from the others and refuses the guilty. Without files only the pace."""

    def __init__(self, board: StatusBoard, hazards: Hazards | None = None, suspects: Suspects | None = None) -> None:
        self._board = board
        self._hazards = hazards
        self._suspects = suspects
        self._hang_limit = HangLimit()

    def refusal(self, request: GenerateRequest) -> Rejected | None:
        """Why a request that has been the end of engines before is not tried again; None for all others."""
        if self._suspects is None or self._suspects.find(fingerprint(request))[0] < MAX_DEATHS:
            return None
        return Rejected(
            request.request_id,
            ErrorCode.INTERNAL,
            f"the engine died {MAX_DEATHS} times while it worked on this request; it is not tried again",
        )

    def take(self, seq: Sequence) -> None:
        """Set what is known of the sequence's request."""
        if self._suspects is not None:
            seq.fingerprint = fingerprint(seq.request)
            deaths, seq.alone_until = self._suspects.find(seq.fingerprint)
            seq.suspect = deaths > 0

    def clear(self, seq: Sequence) -> None:
        """The sequence has finished, and the engine lives."""
        if seq.suspect and self._suspects is not None:
            self._suspects.clear(seq.fingerprint)

    def compiling(self, seq: Sequence, begins: bool) -> None:
        """The grammar of the sequence is being compiled, or no longer. Called by the compiler's thread."""
        if self._hazards is not None:
            self._hazards.compile(seq.fingerprint if begins else 0)

    @staticmethod
    def parts(batch: ScheduledBatch) -> list[ScheduledBatch]:
        """The batch in the passes it is to run in: a suspect in its own, until it is past where an engine died."""
        alone = [item for item in batch.items if item.start < item.seq.alone_until]
        if not alone:
            return [batch]
        others = [item for item in batch.items if item.start >= item.seq.alone_until]
        return [ScheduledBatch(others)] * bool(others) + [ScheduledBatch([item]) for item in alone]

    @contextmanager
    def running(self, batch: ScheduledBatch) -> Iterator[None]:
        """Around a pass. If the process does not survive it, or it raises, what ran stays written."""
        self._board["step_limit_ms"] = int(1000 * self._hang_limit.limit_s(batch.num_tokens))
        if self._hazards is not None:
            self._hazards.enter([(item.seq.fingerprint, item.start + item.num_tokens) for item in batch.items])
        self._board.beat()
        started = time.monotonic()
        yield
        self._hang_limit.observe(batch.num_tokens, time.monotonic() - started)
        self._board["step_limit_ms"] = 0
        if self._hazards is not None:
            self._hazards.leave()
