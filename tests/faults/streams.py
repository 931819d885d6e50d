"""Clients that read a streamed answer and write down what came when."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import Server


@dataclass
class Client(threading.Thread):
    """One /generate_stream request in a thread of its own."""

    server: Server
    prompt: str
    max_new_tokens: int = 100
    status: int = 0
    retry_after: str | None = None
    token_ids: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finished: bool = False
    error: str = ""
    broken: str = ""
    ended_s: float = 0.0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.started_s = time.monotonic()
        self.start()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        try:
            self._read()
        except (OSError, http.client.HTTPException) as exc:
            self.broken = type(exc).__name__
        self.ended_s = time.monotonic()

    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        parameters = {"max_new_tokens": self.max_new_tokens, "decoder_input_details": False}
        body = json.dumps({"inputs": self.prompt, "parameters": parameters})
        with contextlib.closing(connection):
            connection.request("POST", "/generate_stream", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            self.status = response.status
            self.retry_after = response.headers.get("Retry-After")
            if response.status != 200:
                self.error = response.read().decode()
                return
            while line := response.readline():
                if line.startswith(b"data:"):
                    self._take(json.loads(line.removeprefix(b"data:")))

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = event["error"]
            return
        self.times.append(time.monotonic())
        self.token_ids.append(event["token"]["id"])
        self.finished = event.get("details") is not None or event.get("generated_text") is not None

    @property
    def ended_well(self) -> bool:
        """A whole answer, or an error that the client was told."""
        return self.finished or (bool(self.error) and not self.broken)

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def prompts(count: int) -> list[str]:
    return [f"{i:02d} {'abcdefghij' * (1 + i % 3)}" for i in range(count)]


def start(server: Server, count: int, max_new_tokens: int = 450) -> list[Client]:
    return [Client(server, prompt, max_new_tokens) for prompt in prompts(count)]


def wait_running(clients: Sequence[Client], tokens: int = 3, seconds: float = 120) -> None:
    """Until each has received so many tokens, or has ended."""
    deadline = time.monotonic() + seconds
    while not all(len(client.token_ids) >= tokens or not client.is_alive() for client in clients):
        assert time.monotonic() < deadline, "the streams did not begin"
        time.sleep(0.01)


def join(clients: Sequence[Client], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))


def throughput(server: Server, count: int = 32, tokens: int = 100) -> float:
    """Tokens a second over all streams."""
    began = time.monotonic()
    clients = start(server, count, tokens)
    join(clients)
    assert all(client.finished for client in clients)
    return sum(len(client.token_ids) for client in clients) / (time.monotonic() - began)
