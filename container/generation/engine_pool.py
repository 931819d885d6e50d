"""All engines behind one interface: a request goes to the ready engine with the fewest outstanding requests.

Engines differ only in the devices they run on. A request stays with its engine: when an engine dies, its requests end
with an error and the other engines go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from container.generation.engine_client import EngineClient, Reply
from container.run_dir import RunDir
from handler.seam.protocol import GenerateRequest
from handler.seam.status import Phase, StatusBoard


class EnginePool:
    """A worker's clients of all engines. The first engine always exists; its board holds the number of engines."""

    def __init__(self, run_dir: RunDir, on_stray: Callable[[], None]) -> None:
        """`on_stray` is called for each message that is late, a duplicate, or for no open request."""
        self._run_dir = run_dir
        self._on_stray = on_stray
        self._found = [EngineClient(run_dir.engine(0), on_stray)]
        # Workers start at different engines, so that they do not all choose the same one of equally idle engines.
        self._turn = os.getpid()

    @property
    def clients(self) -> list[EngineClient]:
        """One for each engine that exists now, ready or not."""
        for index in range(len(self._found), self._found[0].board["num_engines"]):
            self._found.append(EngineClient(self._run_dir.engine(index), self._on_stray))
        return self._found

    @property
    def ready_clients(self) -> list[EngineClient]:
        """The clients whose engine is ready."""
        return [client for client in self.clients if client.board.ready]

    @property
    def ready(self) -> bool:
        """True if any engine is ready."""
        return any(client.board.ready for client in self.clients)

    @property
    def draining(self) -> bool:
        """True once PID 1 is draining; it sets all boards at the same time."""
        return bool(self._found[0].board["draining"])

    @property
    def leading_board(self) -> StatusBoard:
        """The board of the engine that has got furthest, which stands for the start of the whole container."""
        return max((client.board for client in self.clients), key=_progress)

    def total(self, name: str) -> int:
        """The board's field `name`, summed over all engines."""
        return sum(client.board[name] for client in self.clients)

    def submit(self, request: GenerateRequest) -> Reply:
        """Send a request to the ready engine with the fewest outstanding. If none is ready the reply fails at once."""
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
    """Sort key: ready is furthest; a failed or restarting engine comes before one that is starting."""
    phase = board.phase
    return (phase if phase <= Phase.READY else -1, board["progress_permille"])
