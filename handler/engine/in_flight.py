"""What the engine is computing now, written where PID 1 reads it after a crash or a hang."""

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
    """Publishes the running requests and the step's hang limit, isolates suspects and refuses proven crashers.

    Without `hazards` and `suspects` it only maintains the hang limit.
    """

    def __init__(self, board: StatusBoard, hazards: Hazards | None = None, suspects: Suspects | None = None) -> None:
        self._board = board
        self._hazards = hazards
        self._suspects = suspects
        self._hang_limit = HangLimit()

    def beside(self) -> InFlight:
        """The same for passes of another model, which take another time."""
        return InFlight(self._board, self._hazards, self._suspects)

    def refusal(self, request: GenerateRequest) -> Rejected | None:
        """The rejection of a request that has crashed `MAX_DEATHS` engines; None for all others."""
        if self._suspects is None or self._suspects.find(fingerprint(request))[0] < MAX_DEATHS:
            return None
        return Rejected(
            request.request_id,
            ErrorCode.INTERNAL,
            f"the engine died {MAX_DEATHS} times while it worked on this request; it is not tried again",
        )

    def identify(self, seq: Sequence) -> None:
        """Set the fingerprint of `seq` and whether it is a suspect."""
        if self._suspects is not None:
            seq.fingerprint = fingerprint(seq.request)
            deaths, seq.alone_until = self._suspects.find(seq.fingerprint)
            seq.suspect = deaths > 0

    def finished(self, seq: Sequence) -> None:
        """Clear the suspicion of `seq`: it has finished without a crash."""
        if seq.suspect and self._suspects is not None:
            self._suspects.clear(seq.fingerprint)

    def compiling(self, seq: Sequence, begins: bool) -> None:
        """Publish that the compilation of the sequence's grammar begins or has ended. Runs in the compiler's thread."""
        if self._hazards is not None:
            self._hazards.set_compiling(seq.fingerprint if begins else 0)

    def adapter_refusal(self, fingerprint: int) -> str | None:
        """Why an adapter with this fingerprint is not loaded: it has crashed `MAX_DEATHS` engines. None for others."""
        if self._suspects is None or self._suspects.find(fingerprint)[0] < MAX_DEATHS:
            return None
        return f"the engine died {MAX_DEATHS} times while it loaded this adapter; it is not tried again"

    def adapter_loaded(self, fingerprint: int) -> None:
        """Clear the suspicion of an adapter that has entered a slot."""
        if self._suspects is not None:
            self._suspects.clear(fingerprint)

    @contextmanager
    def reading(self, fingerprint: int) -> Iterator[None]:
        """Publish that an adapter's files are being read. Runs in the reader's thread."""
        if self._hazards is not None:
            self._hazards.set_reading(fingerprint)
        try:
            yield
        finally:
            if self._hazards is not None:
                self._hazards.set_reading(0)

    @contextmanager
    def filling(self, fingerprint: int) -> Iterator[None]:
        """Publish that an adapter is being put into a slot."""
        if self._hazards is not None:
            self._hazards.set_filling(fingerprint)
        try:
            yield
        finally:
            if self._hazards is not None:
                self._hazards.set_filling(0)

    @staticmethod
    def parts(batch: ScheduledBatch) -> list[ScheduledBatch]:
        """The passes to run `batch` in: one for each suspect that is not yet past its crash, one for all others."""
        alone = [item for item in batch.items if item.start < item.seq.alone_until]
        if not alone:
            return [batch]
        others = [item for item in batch.items if item.start >= item.seq.alone_until]
        return [ScheduledBatch(others)] * bool(others) + [ScheduledBatch([item]) for item in alone]

    @contextmanager
    def running(self, batch: ScheduledBatch) -> Iterator[None]:
        """Publish `batch` while the block runs. If the process dies or the block raises, it stays published."""
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
