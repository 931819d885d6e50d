"""Clients that mean ill, hundreds at once in a process of their own: slow heads, slow bodies, readers that do not read.

Each comes back as soon as it is cut. Their process is nice to all others: true attackers have machines of their own.
Run as `python -m tests.support.attackers PORT KINDS`; it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import ROOT

_POST = "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
# How often a client that does not read looks whether it was cut.
_LOOK_S = 0.1


@dataclass(frozen=True)
class Kind:
    """`num` clients that send `begins`, then `drops` each second. Without drops they never read."""

    num: int
    begins: str
    drops: str = ""


def slow_heads(num: int) -> Kind:
    """A header that never ends."""
    return Kind(num, "POST /generate HTTP/1.1\r\nHost: x\r\nX-A: ", "a")


def slow_bodies(num: int) -> Kind:
    """A body of which a byte comes each second."""
    return Kind(num, _POST.format(path="/generate", length=1000) + '{"inputs":"', "a")


def non_readers(num: int, path: str, body: dict[str, Any]) -> Kind:
    """Clients that ask for a stream and never read it."""
    raw = json.dumps(body)
    return Kind(num, _POST.format(path=path, length=len(raw)) + raw)


@dataclass
class Suffered:
    """How many connections of a kind the server ended, and the seconds it suffered the longest, ended or not."""

    num_cut: int = 0
    longest_s: float = 0.0


class Attackers:
    """Attackers of some kinds against a port of this machine; a context. `suffered` is known after it."""

    def __init__(self, port: int, kinds: dict[str, Kind]) -> None:
        self.suffered: dict[str, Suffered] = {}
        self._command = [sys.executable, "-m", "tests.support.attackers", str(port)]
        self._kinds = json.dumps({name: vars(kind) for name, kind in kinds.items()})

    def __enter__(self) -> Attackers:
        self._process = subprocess.Popen(
            [*self._command, self._kinds], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            said, _error = self._process.communicate(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
        self.suffered = {name: Suffered(**found) for name, found in json.loads(said).items()}


@dataclass
class _Attack:
    """All clients of one kind."""

    port: int
    kind: Kind
    suffered: Suffered = field(default_factory=Suffered)
    began_s: dict[object, float] = field(default_factory=dict)

    def came(self, client: object) -> None:
        self.began_s[client] = time.monotonic()

    def was_cut(self, client: object) -> None:
        self.suffered.num_cut += 1
        self._suffer(self.began_s.pop(client))

    def end(self) -> None:
        for began_s in self.began_s.values():
            self._suffer(began_s)

    def _suffer(self, began_s: float) -> None:
        self.suffered.longest_s = max(self.suffered.longest_s, time.monotonic() - began_s)

    async def come(self, number: int) -> None:
        """Client `number`, again and again."""
        loop = asyncio.get_running_loop()
        while True:
            client = socket.socket()
            client.setblocking(False)
            if not self.kind.drops:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                await loop.sock_connect(client, ("127.0.0.1", self.port))
                cut = loop.create_future()
                await loop.create_connection(lambda cut=cut: _Client(self, cut), sock=client)
                await cut
            except OSError:
                client.close()
            await asyncio.sleep(0.05 + number % 10 / 100)


class _Client(asyncio.Protocol):
    """One connection, until `cut` is set."""

    def __init__(self, attack: _Attack, cut: asyncio.Future[None]) -> None:
        self._attack = attack
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._poller = select.poll()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._attack.came(self)
        transport.write(self._attack.kind.begins.encode())
        if self._attack.kind.drops:
            self._loop.call_later(1.0, self._drip)
        else:
            transport.pause_reading()
            self._poller.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
            self._loop.call_later(_LOOK_S, self._look)

    def _drip(self) -> None:
        if not self._cut.done():
            self._transport.write(self._attack.kind.drops.encode())
            self._loop.call_later(1.0, self._drip)

    def _look(self) -> None:
        if self._poller.poll(0):
            self._transport.abort()
        else:
            self._loop.call_later(_LOOK_S, self._look)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._cut.done():
            self._attack.was_cut(self)
            self._cut.set_result(None)


async def _attack(port: int, kinds: dict[str, Kind]) -> dict[str, Suffered]:
    attacks = {name: _Attack(port, kind) for name, kind in kinds.items()}
    tasks = [asyncio.create_task(each.come(i)) for each in attacks.values() for i in range(each.kind.num)]
    await asyncio.to_thread(sys.stdin.read)
    for each in attacks.values():
        each.end()
    for task in tasks:
        task.cancel()
    return {name: each.suffered for name, each in attacks.items()}


def main(port: str, kinds: str) -> None:
    os.nice(10)
    wanted = {name: Kind(**kind) for name, kind in json.loads(kinds).items()}
    found = asyncio.run(_attack(int(port), wanted))
    print(json.dumps({name: vars(each) for name, each in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
