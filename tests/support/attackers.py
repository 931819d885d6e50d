"""Clients that mean ill, a few hundred at once in one thread: slow heads, slow bodies, readers that do not read.

Each comes back as soon as it is cut, until `stop`; `held_s` says how long each connection was suffered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

Attack = Callable[[int, "Attackers"], Awaitable[None]]


class Attackers:
    """`num` clients of one kind against a port of this machine; a context."""

    def __init__(self, port: int, attack: Attack, num: int) -> None:
        self.port = port
        self.held_s: list[float] = []
        self.stop = threading.Event()
        self.num_open = 0
        self._attack = attack
        self._num = num
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Attackers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(30)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(self._num):
                group.create_task(self._come_back(i))

    async def _come_back(self, number: int) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            self.num_open += 1
            with contextlib.suppress(OSError):
                await self._attack(self.port, self)
            self.num_open -= 1
            if not self.stop.is_set():
                self.held_s.append(time.monotonic() - began)
            await asyncio.sleep(0.05 + number % 10 / 100)

    async def wait(self, seconds: float) -> None:
        """Sleep, but not past the end."""
        until = time.monotonic() + seconds
        while not self.stop.is_set() and time.monotonic() < until:
            await asyncio.sleep(0.25)


async def _drip(port: int, attackers: Attackers, head: bytes, drop: bytes) -> None:
    """Send `head`, then `drop` each second until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head)
        closed = asyncio.create_task(reader.read())
        while not closed.done() and not attackers.stop.is_set():
            await asyncio.wait({closed}, timeout=1)
            writer.write(drop)
        closed.cancel()
    finally:
        writer.transport.abort()


async def slow_head(port: int, attackers: Attackers) -> None:
    """A header that never ends."""
    await _drip(port, attackers, b"POST /generate HTTP/1.1\r\nHost: x\r\nX-A: ", b"a")


async def slow_body(port: int, attackers: Attackers) -> None:
    """A body of which a byte comes each second."""
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    await _drip(port, attackers, head + b'{"inputs":"', b"a")


def non_reader(body: dict[str, Any], path: str = "/generate_stream") -> Attack:
    """Asks for a stream and never reads it."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"

    async def attack(port: int, attackers: Attackers) -> None:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(client, head.encode() + raw)
            poller = select.poll()
            poller.register(client, select.POLLRDHUP)
            while not attackers.stop.is_set() and not poller.poll(0):
                await attackers.wait(0.5)

    return attack
