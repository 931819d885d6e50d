"""Rows 38 and 20: users, read-only file systems, no capabilities, no network; descriptors and disk running out."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.faults import streams
from tests.faults.conftest import Scoreboard
from tests.support.server import ROOT, Server

READ_ONLY = "mount -o remount,bind,ro /dev/shm; mount -o remount,bind,ro /"
NOBODY_ELSE = "--bounding-set -all --inh-caps -all --no-new-privs"


@dataclass(frozen=True)
class Surroundings:
    """`mounts` is run as root in a mount namespace, `user` are setpriv's options, `environ` is all there is."""

    user: str = ""
    mounts: str = ":"
    network: bool = True
    environ: dict[str, str] = field(default_factory=lambda: {"CACHE_DIR": "/mnt/cache", "TMPDIR": "/mnt"})


CASES = {
    "root": Surroundings(),
    "uid 10001": Surroundings("--reuid 10001 --regid 10001 --clear-groups"),
    "random uid, gid 0, no HOME, no /tmp": Surroundings(
        "--reuid 1748230 --regid 0 --clear-groups", "mount -o remount,bind,ro /", environ={}
    ),
    "read-only root, one writable directory": Surroundings(mounts=READ_ONLY),
    "no capabilities": Surroundings(NOBODY_ELSE),
    "no network": Surroundings(network=False),
    "all of it: uid 10001, read-only, no capabilities, no network": Surroundings(
        f"--reuid 10001 --regid 10001 --clear-groups {NOBODY_ELSE}", READ_ONLY, network=False
    ),
}


def opened_path() -> str:
    """Shell that lets any user reach the interpreter, which may lie below a home directory that only root enters."""
    for parent in reversed(Path(sys.base_prefix).parents):
        if not parent.stat().st_mode & 0o001:
            home, kept = sys.base_prefix, "/mnt/.python"
            steps = [f"mkdir -p {kept}", f"mount --bind {home} {kept}", f"mount -t tmpfs -o mode=755 none {parent}"]
            return " && ".join([*steps, f"mkdir -p {home}", f"mount --bind {kept} {home}"])
    return ":"


def run_in(case: Surroundings, model: Path) -> list[str]:
    """What was wrong."""
    prepare = f"mount -t tmpfs -o mode=1777 none /mnt && {opened_path()} && {{ {case.mounts}; }}"
    # The log is the test's, not the server's: it is a pipe, as a container's is.
    log = "/dev/shm/smoke.log" if not case.environ else "/mnt/smoke.log"
    smoke = f"{sys.executable} -m tests.faults.smoke {model} {log}"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **case.environ}
    if not case.network:
        environ["SMOKE_LOOPBACK"] = case.user or "--no-new-privs"
    start = f"exec {smoke}" if not case.network or not case.user else f"exec setpriv {case.user} {smoke}"
    command = ["unshare", "--mount", *([] if case.network else ["--net"]), "sh", "-ec", f"{prepare}; {start}"]
    found = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=170)
    if found.returncode:
        return [f"ended with {found.returncode}: {found.stderr.strip()[-300:]}"]
    return list(json.loads(found.stdout.strip().splitlines()[-1]))


@pytest.fixture
def open_model(tiny_llama: Path) -> Iterator[Path]:
    """A copy that any user can read: pytest's own directories are private."""
    directory = Path("/var/tmp") / f"smoke-model-{os.getpid()}"
    shutil.copytree(tiny_llama, directory)
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(0o644)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.timeout(1200)
@pytest.mark.needs("root")
@pytest.mark.row(38, bug="container/directories.py: the run directory is always below /tmp: 3 of 7 fail")
def test_users_and_file_systems(scoreboard: Scoreboard, open_model: Path) -> None:
    wrong = {name: faults for name, case in CASES.items() if (faults := run_in(case, open_model))}
    text = f"{len(CASES) - len(wrong)} of {len(CASES)}: {', '.join(CASES)}"
    if wrong:
        text += f"; wrong: {wrong}"
    scoreboard(38, "namespaces in place of Docker", f"{len(CASES)} of {len(CASES)}", text, not wrong)


def limit(pid: int, what: int, value: int) -> None:
    resource.prlimit(pid, what, (value, resource.prlimit(pid, what)[1]))


@pytest.mark.row(
    5, bug="container/web/client_socket.py: a client's descriptor is doubled and never closed: no recovery in 30 s"
)
def test_descriptors_run_out(scoreboard: Scoreboard, tiny_llama: Path, tmp_path: Path) -> None:
    """F20: each web worker may open 64 descriptors, and 300 clients come."""
    import socket

    server = Server(
        tmp_path / "log", {"HF_MODEL_ID": str(tiny_llama), "CACHE_DIR": str(tmp_path / "cache"), "ENGINE_THREADS": "1"}
    )
    try:
        server.wait_ready(300)
        tree = psutil.Process(server.process.pid).children(recursive=True)
        workers = [process for process in tree if "gunicorn" in " ".join(process.cmdline())]
        for worker in workers:
            limit(worker.pid, resource.RLIMIT_NOFILE, 64)
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
        for client in clients:
            client.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3)
        for client in clients:
            client.close()
        began = time.monotonic()
        server.wait(lambda: server.ping() == 200, 30)
        recovered = time.monotonic() - began
        # A child that starts late, such as the process of chat templates, is no death.
        same = {p.pid for p in tree} <= {p.pid for p in psutil.Process(server.process.pid).children(recursive=True)}
    finally:
        server.kill()
    text = f"recovered after {recovered:.1f} s, {'no process' if same else 'A PROCESS'} died"
    scoreboard(5, "F20: 64 descriptors a worker, 300 clients", "recovers, no process dies", text, same)


@pytest.mark.row(38, bug="container/web/body.py: a body of more than 500 kB goes through a file: 500")
def test_the_disk_is_full(scoreboard: Scoreboard, tiny_llama: Path, tmp_path: Path) -> None:
    """F10: no process may write another byte to a file."""
    server = Server(
        tmp_path / "log", {"HF_MODEL_ID": str(tiny_llama), "CACHE_DIR": str(tmp_path / "cache"), "ENGINE_THREADS": "1"}
    )
    try:
        server.wait_ready(300)
        main = psutil.Process(server.process.pid)
        for process in [main, *main.children(recursive=True)]:
            limit(process.pid, resource.RLIMIT_FSIZE, 0)
        clients = streams.start(server, 16, 50)
        streams.join(clients)
        finished = sum(client.finished for client in clients)
        # Longer than what libraries keep in memory of a body.
        long_text = server.request("POST", "/tokenize", {"inputs": "word " * 200_000}).status
        ping = server.ping()
        code = server.stop()
    finally:
        server.kill()
    text = f"{finished} of 16 streams, a text of 1 MB {long_text}, /ping {ping}, exit code {code}"
    ok = (finished, long_text, ping, code) == (16, 200, 200, 0)
    scoreboard(38, "F10: RLIMIT_FSIZE 0", "serves normally", text, ok)


@pytest.mark.row(23, bug="handler/engine/core.py: a socket that was deleted is not bound again: not served after 60 s")
def test_the_socket_is_deleted(scoreboard: Scoreboard, tiny_llama: Path, tmp_path: Path) -> None:
    """F23: what is connected stays connected, and workers that come later find the engine."""
    scratch = Path("/dev/shm") / f"f23-{os.getpid()}"
    scratch.mkdir()
    environ = {"HF_MODEL_ID": str(tiny_llama), "CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(scratch)}
    environ["REQUEST_TIMEOUT_S"] = "10"
    server = Server(tmp_path / "log", environ)
    try:
        server.wait_ready(300)
        asked = {"inputs": "hello", "parameters": {"max_new_tokens": 4}}
        assert all(server.request("POST", "/generate", asked).status == 200 for _ in range(8))
        for path in scratch.rglob("*.sock"):
            path.unlink()
        after = {server.request("POST", "/generate", asked).status for _ in range(8)}
        gunicorn = next(c for c in psutil.Process(server.process.pid).children() if "gunicorn" in " ".join(c.cmdline()))
        for worker in gunicorn.children():
            worker.send_signal(signal.SIGKILL)
        began = time.monotonic()
        server.wait(lambda: all(server.request("POST", "/generate", asked).status == 200 for _ in range(4)), 60)
        took = time.monotonic() - began
    finally:
        server.kill()
        shutil.rmtree(scratch)
    text = f"connected workers answered {after}; served again {took:.1f} s after both workers died too"
    scoreboard(23, "F23: the engine's socket deleted", "served again <= 5 s", text, after == {200} and took <= 5)
