"""A port of this machine that is not the server's, for what a load costs the machine by itself."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import asyncio, sys

class Elsewhere(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        asyncio.get_running_loop().call_later(10, transport.abort)

    def data_received(self, data):
        if sys.argv[1]:
            self.transport.write(sys.argv[1].encode())
            self.transport.close()

async def main():
    server = await asyncio.get_running_loop().create_server(Elsewhere, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


class Elsewhere:
    """Answers everybody with `answer`, or nobody with "", and cuts them after 10 s; a process of its own, a context."""

    def __init__(self, answer: str = "") -> None:
        self._answer = answer

    def __enter__(self) -> Elsewhere:
        command = [sys.executable, "-c", _CODE, self._answer]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
