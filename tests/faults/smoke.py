"""Start the server here, ask every dialect once, stop it. Run inside a namespace: `python -m tests.faults.smoke MODEL`.

Prints one line of JSON: what was wrong, empty if nothing was.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from tests.support.server import Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/invocations": CHAT | {"stream": True},
    "/generate": {"inputs": "hello", "parameters": {"max_new_tokens": 8}},
}


def loopback_up() -> None:
    """A new network namespace has a loopback that is down."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14s", b"lo", 0, b"")
        flags = struct.unpack_from("16sh", fcntl.ioctl(any_socket, 0x8913, request))[1]
        if not flags & 1:
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14s", b"lo", flags | 1, b""))


def main(model: str, log: str) -> list[str]:
    server = Server(Path(log), {"HF_MODEL_ID": model} if model else {})
    wrong = []
    try:
        server.wait_ready()
        for path, body in ASKED.items():
            answer = server.request("POST", path, body)
            if answer.status != 200:
                wrong.append(f"{path} {answer.status}")
        code = server.stop()
        if code:
            wrong.append(f"exit code {code}")
    except AssertionError as exc:
        wrong.append(str(exc)[-600:])
    finally:
        server.kill()
    if "Traceback" in server.log.read_text():
        wrong.append("a traceback in the log")
    return wrong


if __name__ == "__main__":
    if os.environ.get("SMOKE_LOOPBACK"):
        loopback_up()
        os.execv(
            "/usr/bin/setpriv",
            ["setpriv", *os.environ.pop("SMOKE_LOOPBACK").split(), sys.executable, *sys.orig_argv[1:]],
        )
    print(json.dumps(main(*sys.argv[1:])))
