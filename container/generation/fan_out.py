"""Several generations at once for one request: `n`, `best_of`, a list of prompts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import gevent
from gevent.queue import SimpleQueue

from container.errors import DeadlineExceeded
from container.generation.generation import Delta, Generation

_GOLDEN = 0x9E3779B97F4A7C15
_SEEDS = 2**64


def derived_seed(seed: int, index: int) -> int:
    """The seed of choice `index`: `seed` itself for the first choice, a different one for each other choice."""
    return (seed + index * _GOLDEN) % _SEEDS


@dataclass(frozen=True, slots=True)
class _Ended:
    error: Exception | None


def fan_out(generations: Sequence[Generation]) -> Generator[tuple[int, Delta | None], None, None]:
    """Run all concurrently; yield (index, delta) in order of arrival, and (index, None) after `KEEPALIVE_S` of silence.

    Each index ends with one delta that has a `finish_reason`. The first failure ends the iteration with its
    ServiceError or ClientDisconnected; DeadlineExceeded only if no generation has a token. Generations still
    running when the iteration ends or is closed are aborted.
    """
    if len(generations) == 1:
        for delta in generations[0].deltas():
            yield 0, delta
        return
    queue: SimpleQueue[tuple[int, Delta | _Ended | None]] = SimpleQueue()
    tasks = [gevent.spawn(_drain, index, generation, queue) for index, generation in enumerate(generations)]
    running = len(tasks)
    late: dict[int, DeadlineExceeded] = {}
    try:
        while running:
            index, found = queue.get()
            if not isinstance(found, _Ended):
                yield index, found
                continue
            if isinstance(found.error, DeadlineExceeded):
                late[index] = found.error
            elif found.error is not None:
                raise found.error
            running -= 1
        for index, error in late.items():
            if not any(each.num_tokens for each in generations):
                raise error
            yield index, generations[index].cut()
    finally:
        gevent.killall(tasks)


def _drain(index: int, generation: Generation, queue: SimpleQueue[tuple[int, Delta | _Ended | None]]) -> None:
    """Put every delta and the end into the queue. Killing the greenlet closes the generation."""
    try:
        for delta in generation.deltas():
            queue.put((index, delta))
    except Exception as exc:  # noqa: BLE001 - fan_out raises it again
        queue.put((index, _Ended(exc)))
    else:
        queue.put((index, _Ended(None)))
