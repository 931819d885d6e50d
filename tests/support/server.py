"""The real container, as a subprocess: `python -m container.serve serve` on a free port."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from container.run_dir import RUN_DIR_VARIABLE, RunDir
from handler.seam.status import StatusBoard

ROOT = Path(__file__).resolve().parents[2]
# The container's interpreter, where the tests run in an environment that has no torch.
PYTHON = os.environ.get("CONTAINER_PYTHON", sys.executable)


_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port that the system gives nobody else while this process lives.

    It stays bound here, where nothing listens: who binds it by its number, with SO_REUSEADDR as servers do, may.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    _reserved.append(probe)
    return int(probe.getsockname()[1])


def processes_below(pid: int, word: str) -> list[psutil.Process]:
    """Children of `pid` that live and have `word` in their command line; any of them may end meanwhile."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # ZombieProcess is one
            if child.status() != psutil.STATUS_ZOMBIE and word in child.cmdline():
                found.append(child)
    return found


def lives(process: psutil.Process) -> bool:
    """An orphan that ended is a zombie until this machine's init, which is not ours here, collects it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
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
        """The status; 0 if there is no answer in a time that is too long for anybody but a machine kept busy."""
        try:
            return self.request("GET", "/ping", timeout=30).status
        except OSError:
            return 0

    def wait(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"not in time; the log says:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def wait_ready(self, seconds: float = 300) -> None:
        self.wait(lambda: self.ping() == 200, seconds)

    def metric(self, name: str) -> float:
        """A number of /metrics, added up over its labels."""
        lines = self.request("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[{{ ]", line))

    def run_dir(self) -> RunDir:
        """Where its processes find each other."""
        return RunDir(Path(self.gunicorn().environ()[RUN_DIR_VARIABLE]))

    def board(self) -> StatusBoard:
        """The engine's status, opened anew."""
        return StatusBoard(self.run_dir().board)

    def engines(self) -> list[psutil.Process]:
        """The engines that run now."""
        return processes_below(self.process.pid, "handler")

    def engine(self) -> psutil.Process:
        """The one engine."""
        found = self.engines()
        assert len(found) == 1, f"{len(found)} engines run"
        return found[0]

    def kill_engines(self, times: int) -> None:
        """Kill the one engine and each that takes its place, so many in all, as soon as it is there."""
        killed: set[int] = set()

        def kill_another() -> bool:
            another = [each for each in self.engines() if each.pid not in killed]
            for each in another:
                each.kill()
                killed.add(each.pid)
            return bool(another)

        for _ in range(times):
            self.wait(kill_another)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The engine stands still in the block, in whatever it does."""
        engine = self.engine()
        engine.suspend()
        try:
            self.wait(lambda: engine.status() == psutil.STATUS_STOPPED)
            yield
        finally:
            engine.resume()

    @contextlib.contextmanager
    def caught(self, path: str, body: Any) -> Iterator[socket.socket]:
        """A client whose request is under way, and stays so: in the block the engine stands still.

        Nobody else may ask the server meanwhile. A request that is over before the engine could be stopped is followed
        by another.
        """
        for _ in range(50):
            before = self.metric("heir_steps_total")
            with self.send(path, body) as client:
                while True:
                    with self.frozen():
                        if self.metric("tgi_batch_current_size"):
                            yield client
                            return
                        over = self.metric("heir_steps_total") > before
                    if over:
                        break
                while client.recv(65536):
                    pass
        raise AssertionError("no request could be caught while it ran")

    def send(self, path: str, body: Any) -> socket.socket:
        """A connection on which the body has been sent; the server closes it after its answer."""
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        client = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        client.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return client

    def gunicorn(self) -> psutil.Process:
        """The parent of the web workers."""
        (found,) = processes_below(self.process.pid, "gunicorn")
        return found

    def workers(self) -> set[int]:
        """Pids of the web workers."""
        return {child.pid for child in self.gunicorn().children()}

    def settle(self) -> None:
        """Every web worker has done all that it had begun: counted, logged and given back what it has answered.

        A worker does one thing after the other, and that right after an answer's last byte. Each is asked alone,
        because where cores are shared one may still stand still while another answers.
        """
        for worker in self.workers():
            self.wait(partial(self.answers_alone, worker, {200, 503}))

    def settle_idle(self) -> None:
        """The same, and nothing runs any more: clients that have left are missed a moment later."""
        self.settle()
        self.wait(lambda: self.metric("tgi_batch_current_size") == self.metric("tgi_queue_size") == 0)
        self.settle()

    def answers_alone(self, worker: int, statuses: Container[int]) -> bool:
        """Whether this worker answers /ping with one of the statuses."""
        with self.alone(worker):
            return self.ping() in statuses

    @contextlib.contextmanager
    def alone(self, worker: int) -> Iterator[None]:
        """The other web workers stand still in the block."""
        others: list[psutil.Process] = []
        try:
            for pid in self.workers() - {worker}:
                with contextlib.suppress(psutil.NoSuchProcess):
                    others.append(psutil.Process(pid))
                    others[-1].suspend()
            yield
        finally:
            for other in others:
                with contextlib.suppress(psutil.NoSuchProcess):
                    other.resume()

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
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
