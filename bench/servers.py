"""Servers that are measured: how each is started, what it wants in a request, and when its first token comes."""

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
    """A server ended, or took too long, before it answered; the message has the end of its log."""


@dataclass(frozen=True)
class Contender:
    """One server. `command` gets the port; `options` go into every body; `ended_by_length` as the server spells it.

    A `light` one is measured with few requests: it is far slower than the rest.
    """

    name: str
    command: Callable[[int], list[str]]
    options: Mapping[str, Any]
    environ: Mapping[str, str] = field(default_factory=dict)
    light: bool = False


@dataclass(frozen=True)
class Running:
    """A started server; `first_token_s` counts from exec to the first token of the first answer."""

    url: str
    first_token_s: float


def ours() -> Contender:
    """This project's server with its defaults, on the bundled model."""
    return Contender(
        name="tgi-heir",
        command=lambda port: [sys.executable, "-m", "container.serve", "serve"],
        options={"max_tokens": 64, "temperature": 0, "ignore_eos": True},
    )


@contextmanager
def started(contender: Contender, log: Path) -> Iterator[Running]:
    """Run it until the block ends. Raises DidNotStart if it does not answer in time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, **contender.environ, "PORT": str(port)}
    began = time.perf_counter()
    with log.open("ab") as output:
        process = subprocess.Popen(
            contender.command(port), env=environ, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not _answers(port, contender.options):
            if process.poll() is not None or time.perf_counter() - began > _START_S:
                raise DidNotStart(f"{contender.name} did not start; its log ends with:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield Running(f"http://127.0.0.1:{port}", time.perf_counter() - began)
    finally:
        _stop(process)


def _answers(port: int, options: Mapping[str, Any]) -> bool:
    """True once a chat with one token is answered."""
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
    """End it and, as its own session, whatever it started."""
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
