"""The engines as one: a request goes to the engine with the least to do, numbers add up, one that is ready is enough.

Engines differ in nothing but the devices they run on. A request stays with its engine: what one engine has in flight
ends with an error when it dies, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from container.generation.engine_client import EngineClient, Reply
from container.run_dir import RunDir
from handler.seam.protocol import GenerateRequest
from handler.seam.status import Phase, StatusBoard


class EnginePool:
    """A worker's clients of all engines. There is always a first one; PID 1 says on its board how many there are."""

    def __init__(self, run_dir: RunDir, on_stray: Callable[[], None]) -> None:
        """`on_stray` is told of each engine message that belongs to no open request, comes late or comes twice."""
        self._run_dir = run_dir
        self._on_stray = on_stray
        self._found = [EngineClient(run_dir.engine(0), on_stray)]
        # Workers start in different places, so that equal engines are not all given the same first request.
        self._turn = os.getpid()

    @property
    def clients(self) -> list[EngineClient]:
        """One for each engine there is now, ready or not."""
        for index in range(len(self._found), self._found[0].board["num_engines"]):
            self._found.append(EngineClient(self._run_dir.engine(index), self._on_stray))
        return self._found

    @property
    def ready_clients(self) -> list[EngineClient]:
        """Those whose engine serves."""
        return [client for client in self.clients if client.board.ready]

    @property
    def ready(self) -> bool:
        """True if a request would be served."""
        return any(client.board.ready for client in self.clients)

    @property
    def draining(self) -> bool:
        """True if PID 1 has been told to stop; it tells all engines at once."""
        return bool(self._found[0].board["draining"])

    @property
    def leading_board(self) -> StatusBoard:
        """Of the engine that has got furthest: what the container as a whole can say about its start."""
        return max((client.board for client in self.clients), key=_progress)

    def total(self, name: str) -> int:
        """A number of the board, added up over all engines."""
        return sum(client.board[name] for client in self.clients)

    def submit(self, request: GenerateRequest) -> Reply:
        """Send a request to the ready engine with the least outstanding; with none, the reply says so."""
        return self._choose().submit(request)

    def _choose(self) -> EngineClient:
        ready = self.ready_clients
        if len(ready) < 2:
            return ready[0] if ready else self._found[0]
        self._turn += 1
        order = [ready[(self._turn + i) % len(ready)] for i in range(len(ready))]
        return min(order, key=lambda client: client.num_outstanding)

    def close(self) -> None:
        """Close every client."""
        for client in self._found:
            client.close()


def _progress(board: StatusBoard) -> tuple[int, int]:
    """Ready is furthest; an engine that failed or waits for its restart is behind one that starts."""
    phase = board.phase
    return (phase if phase <= Phase.READY else -1, board["progress_permille"])
