"""Engines that are killed, stopped, hang or kill themselves; workers and gunicorn killed: rows 9 to 17."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.neighbours import Quotas
from handler.seam.status import StatusBoard
from tests.faults import streams
from tests.faults.conftest import MakeServer, Scoreboard
from tests.faults.streams import Client
from tests.support.server import Server

INJECTED = Path(__file__).parent / "injected"
# The character that the injected faults look for; in the tiny tokenizer every byte is a token.
POISON = "~"


def poison_id(tiny_llama: Path) -> str:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(tiny_llama / "tokenizer.json")).token_to_id(POISON)
    return str(found)


def faulty(make_server: MakeServer, tiny_llama: Path, fault: str, **environ: str) -> Server:
    path = os.pathsep.join([str(INJECTED), os.environ.get("PYTHONPATH", "")])
    return make_server(FAULT=fault, FAULT_TOKEN=poison_id(tiny_llama), PYTHONPATH=path, **environ)


def until(condition: Callable[[], bool], seconds: float = 120) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            return float("inf")
        time.sleep(0.01)
    return time.monotonic() - began


def load_s(server: Server) -> float:
    """What the last start of the engine took, as it says itself."""
    lines = [line for line in server.log.read_text().splitlines() if "ready in" in line]
    return float(lines[-1].split("ready in ")[1].split()[0])


@pytest.mark.row(
    9, bug="container/supervisor/engine_process.py: a death is not written on the board, the restart waits 2 s"
)
def test_engine_killed_idle(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server()
    server.engine().kill()
    seen = until(lambda: server.ping() == 503)
    ready = until(lambda: server.ping() == 200)
    text = f"503 after {seen:.2f} s, ready {ready - load_s(server):.1f} s after a load of {load_s(server):.1f} s"
    scoreboard(9, "tiny model, killed while idle", "", text, seen <= 1 and ready <= load_s(server) + 5)


def check_ends(clients: list[Client], expected: dict[str, list[int]], since: float, over: float) -> tuple[bool, str]:
    """All ended with an error event or 503 within `over` seconds, with the tokens expected up to there."""
    streams.join(clients, 60)
    slowest = max((client.ended_s or float("inf")) - since for client in clients)
    hung = sum(client.is_alive() for client in clients)
    silent = sum(not client.ended_well for client in clients)
    wrong = sum(client.token_ids != expected[client.prompt][: len(client.token_ids)] for client in clients)
    waited = [client for client in clients if client.status == 503]
    bare = sum(client.retry_after is None for client in waited)
    begun = len(clients) - len(waited)
    text = f"slowest {slowest:.2f} s; {hung} hung, {silent} cut without a word, {wrong} with wrong tokens"
    text += f"; {begun} begun, {len(waited)} queued: 503 ({bare} without Retry-After)"
    return not (hung or silent or wrong or bare) and slowest <= over, text


def undisturbed(server: Server, count: int) -> dict[str, list[int]]:
    """What each gets when nothing happens."""
    clients = streams.start(server, count)
    streams.join(clients, 300)
    assert all(client.finished for client in clients)
    return {client.prompt: client.token_ids for client in clients}


@pytest.mark.row(
    10, bug="container/generation/engine_client.py: requests of a dead engine are forgotten, not failed: 48 hung"
)
def test_engine_killed_under_load(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server(MAX_BATCH_SIZE="32")
    expected = undisturbed(server, 48)
    before = max(streams.throughput(server) for _ in range(3))
    clients = streams.start(server, 48)
    streams.wait_running(clients[:32])
    killed = time.monotonic()
    server.engine().kill()
    ok, text = check_ends(clients, expected, killed, 2.0)
    scoreboard(10, "32 streams and 16 queued", "", text, ok)
    server.wait_ready(300)
    after = max(streams.throughput(server) for _ in range(3))
    scoreboard(10, "throughput after", ">= 95 % of before", f"{after / before:.0%}", after >= 0.95 * before)


@pytest.mark.row(
    11, bug="container/supervisor/engine_process.py: the engine's progress is not watched: never detected, 31 hung"
)
def test_engine_stopped_under_load(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server(MAX_BATCH_SIZE="32")
    expected = undisturbed(server, 32)
    clients = streams.start(server, 32)
    streams.wait_running(clients)
    engine = server.engine()
    stopped = time.monotonic()
    engine.send_signal(signal.SIGSTOP)
    seen = until(lambda: server.ping() == 503, 60)
    ok, text = check_ends(clients, expected, stopped + seen, 2.0)
    scoreboard(11, "stopped under 32 streams", "", f"detected after {seen:.1f} s; then {text}", ok and seen <= 10)
    server.wait_ready(300)
    assert not engine.is_running()


@pytest.mark.row(
    11, bug="container/supervisor/engine_process.py: a hung engine is killed without SIGUSR1: no stacks in the log"
)
def test_engine_hangs_in_a_step(scoreboard: Scoreboard, make_server: MakeServer, tiny_llama: Path) -> None:
    server = faulty(make_server, tiny_llama, "hang")
    clients = streams.start(server, 8)
    streams.wait_running(clients)
    hangs = time.monotonic()
    clients.append(Client(server, f"this hangs {POISON}", 20))
    seen = until(lambda: server.ping() == 503, 60)
    streams.join(clients, 30)
    slowest = max(client.ended_s for client in clients) - hangs - seen
    log = server.log.read_text()
    dumped = "sitecustomize.py" in log and "in _happen" in log
    text = f"detected after {seen:.1f} s, clients ended {slowest:.2f} s later, "
    text += f"stack dump {'in' if dumped else 'NOT in'} the log"
    ok = seen <= 10 and slowest <= 2 and dumped and all(client.ended_well for client in clients)
    scoreboard(11, "hangs inside a step, 8 streams", "", text, ok)
    server.wait_ready(300)


@contextlib.contextmanager
def starved(engine: psutil.Process) -> Iterator[None]:
    """Busy loops take all of the processor in the block, but for what is nobody else's."""
    for thread in engine.threads():
        os.sched_setscheduler(thread.id, os.SCHED_IDLE, os.sched_param(0))
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def freeze(server: Server, seconds: float) -> None:
    """All of the container stands still. PID 1 is the last to stop and the first to go on, as may be: it looks at an
    engine that is frozen already, or still."""
    first = psutil.Process(server.process.pid)
    others = first.children(recursive=True)
    for process in others:
        process.suspend()
    time.sleep(0.3)
    first.suspend()
    time.sleep(seconds)
    first.resume()
    time.sleep(0.5)
    for process in others:
        process.resume()


@pytest.mark.row(
    11, bug="container/supervisor/stall.py: starved time counts in full: 1 restart after a silence of 42 s"
)
def test_starved(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    """An engine that hardly gets any processor time is slow, but it does not hang."""
    server = make_server()
    board = server.board()
    pings, silences = [], []
    with starved(server.engine()):
        began = time.monotonic()
        clients: list[Client] = []
        while time.monotonic() - began < 45:
            clients = [c for c in clients if c.is_alive()] or streams.start(server, 8, 100)
            pings.append(until(lambda: server.ping() != 0, 30))
            silences.append(_silence_s(board))
            time.sleep(0.5)
        restarts = board["restarts"]
    text = f"{restarts} restarts, longest silence {max(silences):.1f} s, slowest /ping {max(pings):.2f} s"
    reach = "0 restarts, /ping < 2 s"
    scoreboard(11, "F22: 45 s without processor time", reach, text, not restarts and max(pings) < 2)


@pytest.mark.row(11, bug="container/supervisor/stall.py: starvation is judged when the limit is reached: 1 restart")
def test_frozen(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    """The whole container, when the engine has not moved for as long as starving makes it."""
    server = make_server()
    board = server.board()
    streams.join(streams.start(server, 8, 100))
    with starved(server.engine()):
        streams.start(server, 8, 100)
        until(lambda: _silence_s(board) > 9, 30)
        silence_s = _silence_s(board)
        freeze(server, 12)
    until(lambda: server.ping() == 200, 10)
    time.sleep(1)
    text = f"{board['restarts']} restarts, after a silence of {silence_s:.1f} s"
    scoreboard(11, "the whole container frozen for 12 s", "0 restarts", text, board["restarts"] == 0)


@pytest.mark.needs("cpu_quota")
@pytest.mark.parametrize("quota", [0.5, 0.2])
@pytest.mark.row(11, bug="handler/startup.py: quotas are not read: as many threads as cores for half of one")
def test_under_a_cpu_quota(quota: float, scoreboard: Scoreboard, make_server: MakeServer) -> None:
    """The limit falls while 8 streams run, as when Kubernetes resizes a pod in place."""
    server = make_server(ENGINE_THREADS="")
    board, quotas = server.board(), Quotas()
    pings = []
    clients = streams.start(server, 8, 400)
    streams.wait_running(clients)
    try:
        with quotas.limited(server.process.pid, quota):
            began = time.monotonic()
            while time.monotonic() - began < 20:
                clients = [c for c in clients if c.is_alive()] or streams.start(server, 8, 400)
                pings.append(until(lambda: server.ping() != 0, 30))
                time.sleep(0.1)
            threads, restarts = board["engine_threads"], board["restarts"]
    finally:
        quotas.close()
    p99 = sorted(pings)[int(0.99 * (len(pings) - 1))]
    text = f"{restarts} restarts, {threads} thread, /ping p99 {1000 * p99:.0f} ms"
    # With a fifth of a processor, all stand still for 80 of each 100 ms.
    reach = "0 restarts, 1 thread, /ping p99 < " + ("100 ms" if quota >= 0.5 else "500 ms")
    ok = not restarts and threads == 1 and p99 < (0.1 if quota >= 0.5 else 0.5)
    scoreboard(11, f"quota of {quota} CPU", reach, text, ok)


def _silence_s(board: StatusBoard) -> float:
    return (time.monotonic_ns() - board["heartbeat_ns"]) / 1e9


@pytest.mark.row(
    13, bug="handler/seam/suspects.py: the seed counts, which is new for each try: the engine dies a third time"
)
def test_a_request_that_kills_the_engine(scoreboard: Scoreboard, make_server: MakeServer, tiny_llama: Path) -> None:
    server = faulty(make_server, tiny_llama, "segv")
    deadly = {"inputs": f"deadly {POISON}", "parameters": {"max_new_tokens": 8}}
    expected = {client.prompt: client for client in streams.start(server, 4, 100)}
    streams.join(list(expected.values()))
    for _ in range(2):
        # The innocent are in the same step both times.
        innocent = streams.start(server, 4)
        streams.wait_running(innocent)
        died = server.request("POST", "/generate", deadly)
        assert died.status == 503, died.body
        streams.join(innocent)
        server.wait_ready(300)
    pid = server.engine().pid
    began = time.monotonic()
    third = server.request("POST", "/generate", deadly)
    took = time.monotonic() - began
    again = streams.start(server, 4, 100)
    streams.join(again)
    served = sum(client.token_ids == expected[client.prompt].token_ids for client in again)
    lives = psutil.pid_exists(pid)
    text = f"{third.status} after {1000 * took:.0f} ms; engine {'lives' if lives else 'DIED'}; "
    text += f"{served} of 4 innocent served"
    ok = third.status == 424 and took <= 0.05 and lives and served == 4
    scoreboard(13, "killed twice by one prompt, beside 4 innocent ones", "", text, ok)


@pytest.mark.row(14, bug="container/supervisor/engine_process.py: 30 deaths instead of 3")
def test_crash_loop(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server()
    server.kill_engines(3)
    code = server.process.wait(60)
    text = "giving up: the engine crashed 3 times in 10 minutes"
    said = server.log.read_text().count(text)
    scoreboard(14, "killed three times", "", f"exit code {code}, {said} line: {text}", code == 70 and said == 1)


@pytest.mark.row(16, bug="handler/engine/ipc.py: ROUTER_MANDATORY 0: 12 in the engine after 2 s for 4 left")
def test_web_worker_killed(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server(MAX_BATCH_SIZE="8")
    before = alone_gap(server)
    # 8 run and 16 wait; each worker has some of both.
    clients = streams.start(server, 24, 480)
    streams.wait_running(clients[:8], 1)
    workers = server.gunicorn().children()
    known = {worker.pid for worker in workers}
    victim = max(workers, key=lambda worker: len(worker.net_connections()))
    killed = time.monotonic()
    victim.kill()
    streams.join([c for c in clients if c.broken], 1)
    until(lambda: any(client.broken for client in clients), 5)
    respawned = until(lambda: len({w.pid for w in server.gunicorn().children()} - known) == 1, 30)
    time.sleep(max(0.0, killed + 2 - time.monotonic()))
    lost = [client for client in clients if client.broken]
    left = [client for client in clients if client not in lost and client.is_alive()]
    in_engine = server.metric("tgi_queue_size") + server.metric("tgi_batch_current_size")
    freed = in_engine <= len(left) + 1
    streams.join(clients, 300)
    gaps = sorted(gap for client in left for gap in client.gaps if client.times and client.times[-1] > killed)
    median = gaps[len(gaps) // 2] if gaps else 0.0
    good = all(client.finished for client in left)
    text = (
        f"{len(lost)} lost, {in_engine:.0f} in the engine after 2 s for {len(left)} left; respawn {respawned:.1f} s; "
    )
    text += f"gap between tokens {1000 * median:.0f} ms, before {1000 * before:.0f} ms"
    ok = freed and good and respawned <= 2 and median <= 1.2 * before and bool(lost)
    scoreboard(16, "one of 2 workers killed, 8 running, 16 waiting", "", text, ok)


def alone_gap(server: Server) -> float:
    """Median time between tokens with 8 streams running."""
    clients = streams.start(server, 8, 200)
    streams.join(clients)
    gaps = sorted(gap for client in clients for gap in client.gaps)
    return gaps[len(gaps) // 2]


@pytest.mark.row(
    17,
    bug="container/supervisor/supervisor.py: the end of the web server is only logged: PID 1 is still there after 10 s",
)
def test_gunicorn_killed(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server()
    clients = streams.start(server, 8)
    streams.wait_running(clients)
    tree = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    server.gunicorn().kill()
    _, alive = psutil.wait_procs(tree[1:], timeout=5)
    code = server.process.wait(10)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("0.0.0.0", server.port))
    text = f"{len(alive)} of {len(tree)} processes left, exit code {code}, port free"
    scoreboard(17, "8 streams", "", text, not alive and code == 70)


@pytest.mark.row(17, bug="container/gunicorn_conf.py: gunicorn does not ask to die with PID 1")
def test_pid_1_killed(scoreboard: Scoreboard, make_server: MakeServer) -> None:
    server = make_server()
    tree = psutil.Process(server.process.pid).children(recursive=True)
    server.process.kill()
    server.process.wait()
    _, alive = psutil.wait_procs(tree, timeout=5)
    scoreboard(17, "PID 1 itself killed", "", f"{len(alive)} of {len(tree)} processes left", not alive)
