"""The servers to measure: how each is started, its request options, and its time to the first token."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_START_S = 600.0
_STOP_S = 40.0


class DidNotStart(Exception):
    """A server exited or timed out before it answered; the message contains the end of its log."""


@dataclass(frozen=True)
class Contender:
    """One server. `command` takes the port; `options` go into every request body.

    A `light` contender is measured with fewer requests, because it is much slower than the rest.
    """

    name: str
    command: Callable[[int], list[str]]
    options: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)
    light: bool = False
    directory: Path = ROOT


@dataclass(frozen=True)
class Running:
    """A started server and its first process. `first_token_s` is from exec to the first token of the first answer."""

    url: str
    first_token_s: float
    pid: int


def ours(directory: Path = ROOT) -> Contender:
    """This project's server with default settings, on the bundled model; `directory` is a checkout."""
    return Contender(
        name="tgi-heir",
        command=lambda port: [sys.executable, "-m", "container.serve", "serve"],
        options={"max_tokens": 64, "temperature": 0, "ignore_eos": True},
        directory=directory,
    )


@contextmanager
def started(contender: Contender, log: Path) -> Iterator[Running]:
    """Run a server for the duration of the block. Raises DidNotStart if it does not answer in time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, **contender.environ, "PORT": str(port)}
    began = time.perf_counter()
    with log.open("ab") as output:
        process = subprocess.Popen(
            contender.command(port),
            env=environ,
            cwd=contender.directory,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while not _answers(port, contender.options):
            if process.poll() is not None or time.perf_counter() - began > _START_S:
                raise DidNotStart(f"{contender.name} did not start; its log ends with:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield Running(f"http://127.0.0.1:{port}", time.perf_counter() - began, process.pid)
    finally:
        _stop(process)


def _answers(port: int, options: Mapping[str, Any]) -> bool:
    """True if a chat with one token is answered."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **options, "max_tokens": 1}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and, since it leads its own session, everything that it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
