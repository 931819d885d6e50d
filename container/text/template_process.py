"""The process that runs a model's chat template: `python -m container.text.template_process FD`.

A template is code from a model repository. jinja2's sandbox denies it access to the machine but does not limit its time
and memory; in this process the kernel does. Requests arrive one after the other on the socket `FD`, as frames of JSON.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import struct
import sys
from functools import lru_cache
from typing import Any

from container.text.template_sandbox import CompiledTemplate, TemplateError
from handler.seam.lifeline import die_with_parent

# A conversation of 25 MB needs about 350 MB for its JSON, its text and the pieces in between.
MAX_MEMORY_BYTES = 512 << 20
# Processor seconds for one render; a long conversation takes a few hundredths.
MAX_CPU_S = 1.0
_LENGTH = struct.Struct(">Q")
_READ_BYTES = 1 << 20


def send(connection: socket.socket, value: Any) -> None:
    """Send one frame: eight bytes of length, then JSON, which can hold any string, even unpaired surrogates."""
    raw = json.dumps(value).encode()
    connection.sendall(_LENGTH.pack(len(raw)))
    connection.sendall(raw)


def receive(connection: socket.socket) -> Any:
    """Receive one frame. Raises EOFError at the end of the stream."""
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    return json.loads(_read(connection, length))


def _read(connection: socket.socket, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = connection.recv(min(length, _READ_BYTES))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


@lru_cache(maxsize=4)
def _compiled(source: str) -> CompiledTemplate:
    return CompiledTemplate(source)


def _answer(source: str, variables: dict[str, Any] | None, max_chars: int) -> dict[str, str]:
    """Render, or only compile if `variables` is None. Returns {"text"} or {"error"}."""
    try:
        template = _compiled(source)
        if variables is None:
            template.compile()
            return {"text": ""}
        return {"text": template.render(variables, max_chars=max_chars)}
    except TemplateError as exc:
        return {"error": str(exc)}


def main(descriptor: int) -> None:
    """Answer requests until the peer closes. The kernel kills the process if a render exceeds MAX_CPU_S."""
    die_with_parent(signal.SIGKILL)
    for kind, limit in ((resource.RLIMIT_AS, MAX_MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with socket.socket(fileno=descriptor) as connection:
        connection.setblocking(True)  # gevent created it non-blocking
        while True:
            try:
                source, variables, max_chars = receive(connection)
            except (EOFError, ConnectionError):
                return
            signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
            answer = _answer(source, variables, max_chars)
            signal.setitimer(signal.ITIMER_PROF, 0)
            send(connection, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
