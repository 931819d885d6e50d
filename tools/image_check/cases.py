"""The configurations in which the built image is started, and the run of one of them.

`python -m tools.image_check.cases JSON` runs one case. Start it in its own mount namespace and in its own network
namespace, which has no network.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sagemaker_deploy.checking.http_probe import Probe
from tools.image_check import contract
from tools.image_check.contract import Broken
from tools.image_check.enter import Entry
from tools.image_check.layers import seen_together
from tools.image_check.replay import points_layer

START_S = 300.0
# SageMaker sends SIGKILL 30 s after SIGTERM.
STOP_S = 30.0
MODEL_MOUNT = "/opt/ml/model"


@dataclass(frozen=True, kw_only=True)
class Case:
    """`model` is mounted read-only at /opt/ml/model; without it the container serves the image's own model."""

    title: str
    uid: int = 0
    gid: int = 0
    model: str = ""
    port: int = 8080
    argv: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    layers: list[str] = field(default_factory=list)
    scratch: str = ""


def all_cases(model: Path, entrypoint: list[str]) -> list[Case]:
    """All cases. SageMaker appends `serve` to the entry point, or runs `serve` from PATH if there is none."""
    serve = [*entrypoint, "serve"]
    # As the SageMaker SDK sets them; an empty string means unset.
    sdk = {"SAGEMAKER_PROGRAM": "", "SAGEMAKER_SUBMIT_DIRECTORY": "", "SAGEMAKER_CONTAINER_LOG_LEVEL": "20"}
    return [
        Case(title="root, mounted model", model=str(model), argv=serve, environment=sdk),
        Case(title="uid 10001 gid 0, mounted model", uid=10001, model=str(model), argv=serve),
        Case(title="root, own model, `serve` from PATH", argv=["serve"]),
        Case(
            title="uid 1000650000 gid 0, own model, another port",
            uid=1000650000,
            port=9090,
            argv=serve,
            environment={"SAGEMAKER_BIND_TO_PORT": "9090"},
        ),
    ]


def run(case: Case) -> list[str]:
    """Start the container, check the rules, stop it. Returns the faults; empty if all rules hold."""
    _loopback_up()
    entry = Entry(
        root="",
        argv=case.argv,
        environment=case.environment,
        workdir=case.workdir,
        uid=case.uid,
        gid=case.gid,
        binds={MODEL_MOUNT: case.model} if case.model else {},
        confined=True,
    )
    scratch = Path(case.scratch)
    points = points_layer(scratch / "mounts", entry.binds)
    with seen_together([*map(Path, case.layers), points], scratch) as root:
        log = scratch / "log"
        with log.open("wb") as output:
            command = Entry(**asdict(entry) | {"root": str(root)}).command()
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            faults = _ask(case, process)
        finally:
            process.kill()
            process.wait()
        if faults:
            sys.stderr.write(f"image-check: the container's last log lines:\n{log.read_text(errors='replace')[-4000:]}")
        return faults


def _ask(case: Case, process: subprocess.Popen[bytes]) -> list[str]:
    url = f"http://127.0.0.1:{case.port}"
    probe = Probe(url)
    started = time.monotonic()

    def alive() -> bool:
        return process.poll() is None

    try:
        contract.require_loading(contract.wait_for_port(probe, alive, START_S))
        opened_s = time.monotonic() - started
        contract.wait_until_ready(probe, alive, START_S)
    except Broken as exc:
        return [f"start: {exc}"]
    ready_s = time.monotonic() - started
    faults = contract.broken_rules(url)
    stopped_s = time.monotonic()
    faults += _stop(process)
    sys.stderr.write(
        f"image-check: {case.title}: first answer after {opened_s:.1f} s, ready after {ready_s:.1f} s, "
        f"stopped in {time.monotonic() - stopped_s:.1f} s, {len(faults)} rules broken\n"
    )
    return faults


def _stop(process: subprocess.Popen[bytes]) -> list[str]:
    """Send SIGTERM to the container's first process; it must exit with 0 in time and leave no process behind."""
    first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    namespace = os.readlink(f"/proc/{first}/ns/pid")
    faults = [f"zombie {pid}" for pid in _processes(namespace) if _state(pid) == "Z"]
    os.kill(first, signal.SIGTERM)
    try:
        code = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        return [*faults, f"alive {STOP_S} s after SIGTERM"]
    left = _processes(namespace)
    return faults + [f"exit code {code} after SIGTERM"] * (code != 0) + [f"left behind: {left}"] * bool(left)


def _processes(namespace: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "ns/pid") == namespace:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _loopback_up() -> None:
    """Bring up the loopback interface, the only one in the namespace."""
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket() as handle:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(handle, siocgifflags, request))[1]
        fcntl.ioctl(handle, siocsifflags, struct.pack("16sH14x", b"lo", flags | iff_up))


def command(case: Case) -> list[str]:
    """The command line that runs a case without network."""
    return ["unshare", "--net", "--mount", sys.executable, "-m", "tools.image_check.cases", json.dumps(asdict(case))]


if __name__ == "__main__":
    found = run(Case(**json.loads(sys.argv[1])))
    sys.stdout.write("".join(f"{fault}\n" for fault in found))
    sys.exit(1 if found else 0)
