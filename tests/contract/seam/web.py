"""The web side alone, as PID 1 starts it, before a `FakeEngine`; and what tests ask of it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from container.run_dir import RunDir
from container.serve import listen
from container.settings import Settings
from container.supervisor.supervisor import Supervisor
from tests.fakes.engine import FakeEngine
from tests.support.server import ROOT, Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}
PROMPT: dict[str, Any] = {"prompt": "hi", "max_tokens": 4000}
TEXT: dict[str, Any] = {"inputs": "hi", "parameters": {}}
# A body for each route that generates.
GENERATES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": PROMPT,
    "/generate": TEXT,
    "/": TEXT,
    "/invocations": CHAT,
}
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT | {"stream": True},
    "/v1/completions": PROMPT | {"stream": True},
    "/generate_stream": TEXT,
    "/invocations": TEXT | {"stream": True},
}


class WebServer(Server):
    """gunicorn and its workers; `engine` is the far side of the socket.

    A test that provokes an unexpected exception adds one to `num_provoked_faults`; there may be no others.
    """

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.log = directory / "log"
        self.environ = environ
        self.num_provoked_faults = 0
        settings = Settings.from_environ(environ)
        with listen("127.0.0.1", 0) as listener:
            self.port = listener.getsockname()[1]
            supervisor = Supervisor(settings, RunDir(directory), listener.fileno())
            self.engine = FakeEngine(directory)
            with self.log.open("wb") as log, output_to(log.fileno()), mock.patch.dict(os.environ, environ):
                self.process = supervisor._start_web()

    def gunicorn(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def start_engine(self) -> None:
        """Every worker answers when this returns: each loads the tokenizer for itself."""
        self.wait(lambda: len(self.workers()) == int(self.environ["WEB_WORKERS"]))
        self.engine.start()
        for worker in self.workers():
            self.wait(partial(self.answers_alone, worker, {200}))

    def places_taken(self) -> int:
        """Of all workers; none once every answer is over."""
        raw = self.engine.run_dir.concurrency.read_bytes()
        return sum(struct.unpack(f"{len(raw) // 8}q", raw))

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.request("POST", path, body, timeout=30, **headers)

    def open(self, path: str, body: Any) -> OpenStream:
        return OpenStream(self.port, path, body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, sent: bytes, then: bytes = b"", *, ends: bool = False) -> bytes:
        """Everything that comes back until the server closes. `then` is sent once something has come; with `ends` the
        client says that it sends no more."""
        with self.connect() as client:
            with suppress(BrokenPipeError, ConnectionResetError):  # the server may have answered and closed by now
                client.sendall(sent)
            if ends:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
            parts = []
            try:
                while part := client.recv(65536):
                    parts.append(part)
                    if then:
                        client.sendall(then)
                        then = b""
            except (ConnectionResetError, BrokenPipeError):
                pass
            return b"".join(parts)


class OpenStream:
    """A streamed answer that is read event by event and may be left at any point."""

    def __init__(self, port: int, path: str, body: Any, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"} | headers)
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        """The answer, once its head is there."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def event(self) -> str | None:
        """The data of the next event; None at the end."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                return line.removeprefix(b"data: ").decode().rstrip("\n")
        return None

    def rest(self) -> list[str]:
        """The data of all events that are left."""
        return list(iter(self.event, None))

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()


def events(body: bytes) -> list[str]:
    """The data of a whole stream's events, each one line and a blank line."""
    assert body.endswith(b"\n\n"), body[-200:]
    frames = body.decode().removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames), frames
    return [frame.removeprefix("data: ") for frame in frames]


@contextmanager
def output_to(descriptor: int) -> Iterator[None]:
    """Children started meanwhile write there; they also find our modules, wherever pytest was started."""
    saved = os.dup(1), os.dup(2)
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for each in saved:
            os.close(each)
        os.chdir(before)
