"""`make bench-neighbours`: this server beside busy loops and under CPU quotas, as a share of what would be fair.

The fair share is the part of the cores that the engine would have if all runnable threads shared them equally: with two
cores and N busy loops 2 / (2 + N), under a quota of Q cores Q / 2. Figures are tokens a second, divided by that part
of the speed of the quiet server. `--before DIRECTORY` measures the server of another checkout in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.load import measure
from bench.servers import ROOT, Running, ours, started

_LOG = Path(tempfile.gettempdir()) / "tgi-heir-bench-neighbours.log"
_OPTIONS = {"max_tokens": 64, "temperature": 0, "ignore_eos": True}
# A loop ends by itself, should nobody stop it.
_LOOP = "import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
_LOOP_S = 120
_PERIOD_US = 100_000


@dataclass(frozen=True)
class Condition:
    """What the server is measured beside: so many busy loops, or a quota of so many cores (0: none)."""

    loops: int = 0
    quota: float = 0.0

    @property
    def name(self) -> str:
        """For the table."""
        return f"quota {self.quota:g}" if self.quota else f"{self.loops} busy loops" if self.loops else "quiet"

    def fair_part(self, cores: int) -> float:
        """The part of the machine that the server's threads, one for each core, could have."""
        return min(1.0, self.quota / cores) if self.quota else cores / (cores + self.loops)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Run loops of equal priority for the block; each is a session of its own, as another container's would be."""
    command = [sys.executable, "-c", _LOOP.format(seconds=_LOOP_S)]
    loops = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Quotas:
    """A control group below this process's own, for the servers. Needs root and a hierarchy that may be written."""

    def __init__(self) -> None:
        """Raises OSError if no group can be made here."""
        name = f"tgi-heir-bench-{os.getpid()}"
        for top, self._version in ((Path("/sys/fs/cgroup/cpu"), 1), (Path("/sys/fs/cgroup"), 2)):
            if (top / ("cpu.cfs_quota_us" if self._version == 1 else "cgroup.controllers")).is_file():
                self._group, self._top = top / name, top
                self._group.mkdir()
                try:
                    self._set(0)
                except OSError:
                    self._group.rmdir()
                    raise
                return
        raise OSError("no cpu controller is mounted below /sys/fs/cgroup")

    @contextmanager
    def limited(self, pid: int, quota: float) -> Iterator[None]:
        """Give the process and all below it `quota` cores for the block."""
        self._set(quota)
        self._move(pid, self._group)
        try:
            yield
        finally:
            self._move(pid, self._top)

    def close(self) -> None:
        """Remove the group."""
        self._group.rmdir()

    def _set(self, quota: float) -> None:
        limit = str(int(quota * _PERIOD_US)) if quota else "-1" if self._version == 1 else "max"
        if self._version == 1:
            (self._group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self._group / "cpu.cfs_quota_us").write_text(limit)
        else:
            (self._group / "cpu.max").write_text(f"{limit} {_PERIOD_US}")

    @staticmethod
    def _move(pid: int, group: Path) -> None:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            (group / "cgroup.procs").write_text(str(each.pid))


def main() -> int:
    """Measure and print. Returns 1 if a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="another checkout, whose server is measured in turn")
    parser.add_argument("--loops", default="0,1,2,4", help="numbers of busy loops, comma-separated; 0 comes first")
    parser.add_argument("--quotas", default="1.0,0.5", help="cores, comma-separated; empty for none")
    parser.add_argument("--streams", default="1,8", help="concurrencies, comma-separated")
    parser.add_argument("--requests", type=int, default=2, help="requests of 64 tokens for each stream and round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    conditions = [Condition(loops=int(each)) for each in arguments.loops.split(",")]
    with ExitStack() as stack:
        quotas = _quotas(stack)
        if quotas is not None:
            conditions += [Condition(quota=float(each)) for each in arguments.quotas.split(",") if each]
        directories = {"this": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
        servers = {name: stack.enter_context(started(ours(at), _LOG)) for name, at in directories.items()}
        streams = [int(each) for each in arguments.streams.split(",")]
        return _measure(servers, conditions, streams, arguments, quotas)


def _quotas(stack: ExitStack) -> Quotas | None:
    """None, with a line that says why, where quotas cannot be tried."""
    try:
        quotas = Quotas()
    except OSError as exc:
        print(f"quotas are not tried: {exc}")
        return None
    stack.callback(quotas.close)
    return quotas


def _measure(
    servers: dict[str, Running],
    conditions: list[Condition],
    streams: list[int],
    arguments: argparse.Namespace,
    quotas: Quotas | None,
) -> int:
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}; a table is worth something only if that is near 0")
    print("| streams | beside | server | tok/s | of quiet speed | of quiet speed x fair part | /ping ms p99 |")
    print("|---|---|---|---|---|---|---|")
    num_errors, first = 0, 10_000
    for concurrency in streams:
        quiet: dict[str, float] = {}
        for condition in conditions:
            found: dict[str, list[float]] = {name: [] for name in servers}
            pings: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(arguments.rounds):
                for name, server in servers.items():
                    with _beside(condition, server, quotas):
                        figures = asyncio.run(_loaded(server.url, concurrency, arguments.requests, first, pings[name]))
                    found[name].append(figures[0])
                    num_errors += figures[1]
                first += 1000
            for name, speeds in found.items():
                speed = statistics.median(speeds)
                _print(concurrency, condition, name, speed, quiet.setdefault(name, speed), pings[name])
    return 1 if num_errors else 0


def _print(
    concurrency: int, condition: Condition, name: str, speed: float, quiet: float, pings_ms: list[float]
) -> None:
    part = speed / quiet
    fair = part / condition.fair_part(len(os.sched_getaffinity(0)))
    p99 = sorted(pings_ms)[int(0.99 * (len(pings_ms) - 1))]
    row = (concurrency, condition.name, name, f"{speed:.1f}", f"{part:.2f}", f"{fair:.2f}", f"{p99:.0f}")
    print("|", " | ".join(map(str, row)), "|", flush=True)


@contextmanager
def _beside(condition: Condition, server: Running, quotas: Quotas | None) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(busy_loops(condition.loops))
        if condition.quota and quotas is not None:
            stack.enter_context(quotas.limited(server.pid, condition.quota))
        yield


async def _loaded(
    url: str, concurrency: int, num_requests: int, first: int, pings_ms: list[float]
) -> tuple[float, int]:
    """Tokens a second and failed requests; milliseconds of /ping meanwhile go to `pings_ms`."""
    import aiohttp

    async def ping() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                began = time.perf_counter()
                async with session.get(f"{url}/ping") as response:
                    await response.read()
                pings_ms.append(1000 * (time.perf_counter() - began))
                await asyncio.sleep(0.1)

    # The engine notices a new neighbour within some steps.
    await measure(url, concurrency, concurrency, _OPTIONS, first=first + 900)
    pinging = asyncio.create_task(ping())
    try:
        figures = await measure(url, concurrency, num_requests * concurrency, _OPTIONS, first=first)
    finally:
        pinging.cancel()
    return figures.tokens_per_s, figures.num_errors


if __name__ == "__main__":
    sys.exit(main())
