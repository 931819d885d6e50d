"""The front under hostile connections and bodies, before a scripted engine (rows 1, 3 to 6, 40)."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from handler.seam.protocol import GenerateRequest
from tests.contract.seam.test_hostile_input import BODIES, FIELDS, LEAKS, PARAMETERS, POSTS
from tests.contract.seam.web import CHAT, PROMPT, TEXT, WebServer
from tests.fakes.engine import LONG, Act, FakeEngine, Script, output
from tests.faults.conftest import Scoreboard
from tests.support.attackers import Attackers, non_readers, slow_bodies, slow_heads
from tests.support.elsewhere import Elsewhere
from tests.support.figures import Sampler, ms, quantile, timed
from tests.support.frames import CASES, CUT, GOOD

JUNK: tuple[Any, ...] = (None, True, -1, 0, 2**31, 2**63, 2**64, 1.5, 1e308, "x", "", "\0", [], {}, [[]], {"a": []})


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    yield from serve()


@pytest.fixture
def fresh_web() -> Iterator[WebServer]:
    """One whose memory has not grown yet."""
    yield from serve()


def serve() -> Iterator[WebServer]:
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        server = WebServer(Path(directory), {"WEB_WORKERS": "2", "MAX_CONCURRENT_REQUESTS": "100000"})
        try:
            server.start_engine()
            yield server
        finally:
            server.kill()
            server.engine.close()


def memory(server: WebServer) -> int:
    """Bytes that all workers hold and do not share."""
    return sum(memory_of_each(server).values())


def memory_of_each(server: WebServer) -> dict[int, int]:
    """Bytes that each worker holds and does not share, by process id."""
    return {pid: psutil.Process(pid).memory_full_info().uss for pid in server.workers()}


def malformed(count: int) -> Iterator[tuple[str, bytes]]:
    """Bodies and where they go: every kind of broken JSON, and good JSON with fields that make no sense."""
    draw = random.Random(1)
    broken = list(BODIES.values())
    for path in itertools.islice(itertools.cycle(POSTS[:-1]), count):
        if draw.random() < 0.3:
            body = bytearray(draw.choice(broken))
            if body and draw.random() < 0.5:
                body[draw.randrange(len(body))] = draw.randrange(256)
            yield path, bytes(body)
            continue
        base = {"messages": CHAT["messages"]} if "chat" in path else PROMPT if path.startswith("/v1") else dict(TEXT)
        fields = {draw.choice(FIELDS): draw.choice(JUNK) for _ in range(3)}
        fields["parameters"] = {draw.choice(PARAMETERS): draw.choice(JUNK) for _ in range(2)}
        yield path, json.dumps(base | fields).encode()


@pytest.mark.row(1, bug="container/web/body.py: too deep nesting is not caught: 303 of 10,000 are 500")
def test_malformed_bodies(web: WebServer, scoreboard: Scoreboard) -> None:
    before, statuses, slow, leaks = web.workers(), [], [], 0

    def send(case: tuple[str, bytes]) -> tuple[float, Any]:
        return timed(lambda: web.post(*case))

    with ThreadPoolExecutor(2) as threads:
        for seconds, answer in threads.map(send, malformed(10_000)):
            statuses.append(answer.status)
            leaks += bool(LEAKS.search(answer.body)) and answer.status >= 400
            slow.append(seconds)
    faults = sum(status >= 500 for status in statuses)
    died, over = before - web.workers(), sum(seconds > 0.25 for seconds in slow)
    seen = f"{faults} of {len(statuses)} >= 500, {len(died)} restarts, {over} over 250 ms, {leaks} leaks; "
    seen += f"p99 {ms(quantile(slow, 0.99))}, max {ms(max(slow))}; {sum(s >= 400 for s in statuses)} refused"
    scoreboard(1, "10,000 bodies, 11 routes", "", seen, not (faults or died or over or leaks))


@pytest.mark.row(3, bug="container/web/body.py: a broken chunk ends the body: 62 requests run")
def test_frames(web: WebServer, scoreboard: Scoreboard) -> None:
    """Each with a good request behind it in one piece, and with one that follows the answer."""
    web.engine.reset()
    tries = {name: (sent + GOOD, b"", False) for name, sent in CASES.items()}
    tries |= {f"{name}, then another": (sent, GOOD, False) for name, sent in CASES.items()}
    tries |= {f"cut {name}": (sent, b"", True) for name, sent in CUT.items()}

    def ask(name: str) -> tuple[str, int]:
        """What is wrong with the answer, and how many requests it says were run."""
        sent, then, ends = tries[name]
        try:
            found = web.raw(sent, then, ends=ends)
        except TimeoutError:
            return f"{name}: still open", 0
        head = found.split(b"\r\n")[0].split(b" ")
        # A head that is too long may be answered by closing alone.
        status = int(head[1]) if len(head) > 1 else 400
        refused = 400 <= status < 500 or status == 501
        return "" if refused else f"{name}: {status}", found.count(b"HTTP/1.1 200")

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, tries))
    wrong = [text for text, _ in found if text]
    run = max(sum(count for _, count in found), len(web.engine.requests))
    seen = f"{len(tries) - len(wrong)} of {len(tries)} tries refused and closed; {run} requests run"
    scoreboard(3, f"{len(CASES) + len(CUT)} cases", "", "; ".join([seen, *wrong[:5]]), not (wrong or run))


# 40 tokens of 16 kB: more than the kernel holds for a client that does not read.
NUM_TOKENS = 40
KINDS = {
    "heads": slow_heads(500),
    "bodies": slow_bodies(500),
    "readers": non_readers(200, "/generate_stream", {"inputs": "hi", "parameters": {"max_new_tokens": NUM_TOKENS}}),
}


def endless(engine: FakeEngine) -> Script:
    """Readers get long tokens, others "hello"."""
    token = engine.tokenizer.token_to_id(LONG)
    hello = engine.says("hello")

    def play(request: GenerateRequest) -> Iterable[Act]:
        if request.sampling.max_tokens != NUM_TOKENS:
            return hello(request)
        return (output(request, [token]) for _ in range(NUM_TOKENS))

    return play


@pytest.mark.row(4, bug="container/web/client_socket.py: every byte gives the head 10 s more: 0 of the slow heads cut")
def test_slow_clients(web: WebServer, scoreboard: Scoreboard) -> None:
    """Good requests are compared with those made while the same clients attack a port that belongs to nobody."""
    web.engine.reset()
    web.engine.script = endless(web.engine)

    def asked(seconds: float) -> float:
        """The median of requests that are made meanwhile."""
        found, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            found.append(timed(lambda: web.post("/generate", TEXT))[0])
            time.sleep(0.2)
        return statistics.median(found)

    alone = asked(5)
    with Elsewhere() as elsewhere, Attackers(elsewhere.port, KINDS):
        beside = asked(20)
    with Attackers(web.port, KINDS) as attackers, Sampler(web.ping, 1.0) as pings:
        under = asked(60)
    good = sum(status == 200 and seconds < 0.25 for seconds, status in pings.seen)
    seen = f"{good} of {len(pings.seen)} pings 200 and < 250 ms, max {ms(max(pings.seconds))}"
    scoreboard(4, "pings", "all < 250 ms", seen, good == len(pings.seen))
    slower = under / beside - 1
    seen = f"median {ms(under)} under attack, {ms(beside)} beside an attack on another port ({slower:+.0%}), "
    seen += f"{ms(alone)} alone"
    scoreboard(4, "good requests", "< 20 % slower than beside an attack on another port", seen, slower < 0.2)
    found = attackers.suffered
    seen = "; ".join(f"{name}: {each.num_cut} cut, longest {each.longest_s:.1f} s" for name, each in found.items())
    # The attackers' clock begins before the server's and is late by what their process waits for a core; a reader's
    # answer fills the buffers first.
    ok = all(each.num_cut and each.longest_s <= 12 for each in found.values())
    scoreboard(4, "attackers", "cut after 10 s", seen, ok)


def open_idle(server: WebServer, count: int) -> list[socket.socket]:
    """Connections that have asked once and may ask again."""
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        clients.append(client)
    return clients


@pytest.mark.row(5, bug="container/gunicorn_conf.py: 1,000 connections a worker, gunicorn's default: 1,870 kept")
def test_ten_thousand_idle_connections(web: WebServer, scoreboard: Scoreboard) -> None:
    before, clients = memory(web), []
    try:
        with Sampler(web.ping, 0.5) as pings:
            clients = open_idle(web, 10_000)
            time.sleep(5)
        grown = memory(web) - before
        kept = sum(is_open(client) for client in clients)
    finally:
        for client in clients:
            client.close()
    recovery, status = timed(web.ping)
    failed = sum(found != 200 for found in pings.found)
    seen = f"{failed} of {len(pings.found)} pings failed, max {ms(max(pings.seconds))}; {kept} connections kept; "
    seen += f"memory +{grown / 1e6:.0f} MB; /ping {ms(recovery)} after they left"
    ok = not failed and kept == len(clients) and grown < 200e6 and status == 200 and recovery < 2
    scoreboard(5, "10,000 connections", "", seen, ok)


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.row(40, bug="container/web/client_socket.py: a buffer of 64 kB for each connection: 80.8 kB, 72.9 kB")
def test_memory_of_a_connection_and_of_a_request(fresh_web: WebServer, scoreboard: Scoreboard) -> None:
    web, engine = fresh_web, fresh_web.engine
    before = memory(web)
    clients = open_idle(web, 4000)
    each = (memory(web) - before) / 4000
    for client in clients:
        client.close()
    scoreboard(40, "idle connection", "< 20 kB", f"{each / 1000:.1f} kB", each < 20_000)
    release = threading.Event()
    engine.script = lambda _request: [release]
    before = memory(web)
    waiting = [web.open("/generate", TEXT) for _ in range(2000)]
    web.wait(lambda: len(engine.requests) == 2000)
    # What the 4,000 connections before left free is used again: theirs is added.
    each = (memory(web) - before) / 2000 + each
    for stream in waiting:
        stream.close()
    release.set()
    scoreboard(40, "queued request", "< 50 kB and its body", f"{each / 1000:.1f} kB", each < 50_000)


def oversize(web: WebServer) -> Iterator[tuple[str, int, bytes, int]]:
    """Name, status, what is sent first, bytes that follow."""
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    yield "length", 413, head + b"Content-Length: 50000000\r\n\r\n", 50_000_000
    yield "chunked", 413, head + b"Transfer-Encoding: chunked\r\n\r\n" + b"2faf080\r\n", 50_000_000
    yield "1 MB header", 431, b"GET /ping HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 1_000_000 + b"\r\n\r\n", 0
    yield "9 kB URL", 414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 0
    many = b"".join(b"X-%d: a\r\n" % i for i in range(200))
    yield "200 headers", 431, b"GET /ping HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n", 0
    bomb = gzip.compress(b" " * 20_000_000)
    bomb_head = head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    yield "gzip bomb", 415, bomb_head + bomb, 0


@pytest.mark.row(6, bug="container/web/worker.py: an unwanted body is read without limit")
def test_oversize(fresh_web: WebServer, scoreboard: Scoreboard) -> None:
    web = fresh_web
    limit, before, found, most, right = 2_000_000, memory_of_each(web), [], 0, True
    for name, status, start, more in oversize(web):
        taken, answer = pour(web, start, more)
        code = answer.split(b" ")[1].decode() if answer else "closed"
        # What lies in the kernel's buffers of both ends was sent, but not read.
        most = max(most, taken)
        found.append(f"{name} {code}")
        right &= code == str(status) or (code == "closed" and name == "1 MB header")
    # A worker keeps one buffer of the payload limit; how many workers get a large body is chance.
    grown = max(now - before[pid] for pid, now in memory_of_each(web).items())
    seen = f"{', '.join(found)}; {most / 1e6:.2f} MB taken with the kernel; memory of a worker +{grown / 1e6:.1f} MB"
    scoreboard(6, "six kinds", "", seen, right and most < limit + 65_536 + 6_000_000 and grown < 5e6)


def pour(web: WebServer, start: bytes, more: int) -> tuple[int, bytes]:
    """Send until the server will take no more. Bytes sent after the head, and the answer."""
    with web.connect() as client:
        sent, piece = 0, b" " * 65_536
        try:
            client.sendall(start)
            while sent < more:
                sent += client.send(piece)
        except (ConnectionResetError, BrokenPipeError):
            pass
        try:
            return sent, client.recv(4096)
        except ConnectionResetError:
            return sent, b""
