"""Admission control: a request is refused with 429 before its prompt is rendered, tokenized or sent (decision 0032).

Two limits hold for the whole container: sequences in flight, and prompt tokens that wait in the engines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from container.errors import Overloaded
from container.generation.engine_pool import EnginePool
from container.serving.concurrency import ConcurrencyLimit
from container.serving.queue_time import QueueTime


class Admission:
    """One web worker's share of the decision; the counts are those of all workers."""

    def __init__(self, engines: EnginePool, counts_path: Path, max_per_engine: Callable[[], int]) -> None:
        """`max_per_engine` says how many sequences may be in flight for each engine that is ready."""
        self._engines = engines
        self._max_per_engine = max_per_engine
        self._concurrency = ConcurrencyLimit(counts_path)
        self._queue_time = QueueTime(engines.total)

    @property
    def max_in_flight(self) -> int:
        """Sequences of the whole container before 429."""
        return self._max_per_engine() * max(1, len(self._engines.ready_clients))

    def check_room(self, max_waiting_tokens: int) -> None:
        """Raise Overloaded if not even one more sequence would be admitted; reserve nothing.

        `max_waiting_tokens` bounds the prompt tokens that wait in one engine; 0 is no bound.
        """
        waiting = [client.board["waiting_tokens"] for client in self._engines.ready_clients]
        full = bool(max_waiting_tokens and waiting) and min(waiting) >= max_waiting_tokens
        if full or self._concurrency.in_flight >= self.max_in_flight:
            raise self._overloaded()

    def admit(self, num_sequences: int, max_waiting_tokens: int) -> Callable[[], None]:
        """Reserve `num_sequences`; the function returned releases them, once. Raises Overloaded.

        An idle server admits any number of sequences that one request may have.
        """
        self.check_room(max_waiting_tokens)
        if not self._concurrency.acquire(num_sequences, self.max_in_flight):
            raise self._overloaded()
        return partial(self._concurrency.release, num_sequences)

    def observe(self) -> None:
        """Measure the engines' speed for Retry-After; call it at least every few seconds."""
        self._queue_time.observe()

    def _overloaded(self) -> Overloaded:
        return Overloaded("Model is overloaded", retry_after_s=self._queue_time.retry_after_s)
