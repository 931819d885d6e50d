"""The real container, as a subprocess: `python -m container.serve serve` on a free port."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# The container's interpreter, where the tests run in an environment that has no torch.
PYTHON = os.environ.get("CONTAINER_PYTHON", sys.executable)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(port: int, method: str, path: str, body: Any = None, timeout: float = 60, **headers: str) -> Answer:
    """Ask a port of this machine over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    try:
        # A body that is too large is answered before it has been sent.
        with contextlib.suppress(BrokenPipeError):
            connection.request(method, path, raw, sent)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())
    finally:
        connection.close()


@dataclass
class Server:
    """A started container. `stop()` sends SIGTERM and returns the exit code."""

    log: Path
    environ: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SAGEMAKER_", "SM_", "MAX_"))}
        environ |= {"PORT": str(self.port), "HF_HUB_OFFLINE": "1"} | self.environ
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "container.serve", "serve"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: Any = None, timeout: float = 60, **headers: str) -> Answer:
        return request(self.port, method, path, body, timeout, **headers)

    def ping(self) -> int:
        try:
            return self.request("GET", "/ping", timeout=30).status
        except OSError:
            return 0

    def wait(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"not in time; the log says:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def wait_ready(self, seconds: float = 120) -> None:
        self.wait(lambda: self.ping() == 200, seconds)

    def engine(self) -> psutil.Process:
        """The engine's process."""
        for child in psutil.Process(self.process.pid).children():
            if "handler" in child.cmdline():
                return child
        raise AssertionError("no engine runs")

    def engines(self) -> set[int]:
        """Pids of the engines that run now; a killed one may linger unreaped for a moment."""
        children = psutil.Process(self.process.pid).children()
        return {c.pid for c in children if c.status() != psutil.STATUS_ZOMBIE and "handler" in c.cmdline()}

    def kill_engines(self, times: int) -> None:
        """Kill the one engine and each that takes its place, so many in all, as soon as it is there."""
        killed: set[int] = set()
        for _ in range(times):
            self.wait(lambda: bool(self.engines() - killed))
            (pid,) = self.engines() - killed
            killed.add(pid)
            psutil.Process(pid).kill()

    def stop(self, number: int = signal.SIGTERM, seconds: float = 40) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """Leave nothing behind, whatever a test did."""
        if self.process.poll() is None:
            tree = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            for child in tree:
                if child.is_running():
                    child.kill()
