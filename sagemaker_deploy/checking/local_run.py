"""Runs the image as SageMaker does, `docker run IMAGE serve` with a read-only model directory, and checks the rules.

Uses the `docker` command, not the daemon's API.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sagemaker_deploy.checking.contract import Finding, check_code, check_contract
from sagemaker_deploy.checking.http_probe import Probe, Unreachable
from sagemaker_deploy.errors import EndpointFailed, PreflightError
from sagemaker_deploy.failures import explain
from sagemaker_deploy.progress import Clock, Progress
from sagemaker_deploy.request.model_reference import MOUNT
from sagemaker_deploy.request.user_code import INFERENCE, UserCode

STOP_LIMIT_S = 30
_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """`model` is mounted at `/opt/ml/model`, and `code` where SageMaker would put it.

    `body` is a request for the code, JSON; None: one that it may refuse. `gpus` is the value of Docker's --gpus, "" for
    none.
    """

    image: str
    model: Path | None = None
    code: UserCode | None = None
    body: bytes | None = None
    environment: dict[str, str] = field(default_factory=dict)
    gpus: str = ""
    start_limit_s: float = 480.0
    docker: str = "docker"


def docker_arguments(options: LocalOptions, name: str) -> list[str]:
    """Return the `docker run` command line; its last argument, `serve`, is SageMaker's."""
    arguments = [options.docker, "run", "--detach", "--name", name, "--publish", "127.0.0.1::8080"]
    arguments += ["--shm-size", "2g", "--platform", "linux/amd64"]
    for path, place in _mounts(options.model, options.code):
        arguments += ["--volume", f"{path.resolve()}:{place}:ro"]
    if options.gpus:
        arguments += ["--gpus", options.gpus]
    for key, value in options.environment.items():
        arguments += ["--env", f"{key}={value}"]
    return [*arguments, options.image, "serve"]


def _mounts(model: Path | None, code: UserCode | None) -> Iterator[tuple[Path, str]]:
    """What to mount where. With code entry by entry, as Docker mounts nothing into a directory mounted read-only."""
    if code is None:
        yield from [(model, MOUNT)] if model else []
        return
    if code.main == INFERENCE:
        entries = {"code": code.directory}
    else:
        entries = {key.partition("/")[0]: code.directory / key.partition("/")[0] for key in code.files()}
    if model:
        entries = {path.name: path for path in sorted(model.iterdir())} | entries
    for name, path in entries.items():
        yield path, f"{MOUNT}/{name}"


def check_locally(options: LocalOptions, progress: Progress, clock: Clock | None = None) -> list[Finding]:
    """Run the image, wait for /ping, check all rules, stop it; return the findings.

    Raises `PreflightError` without Docker, `EndpointFailed` with the container's last log lines if it does not start.
    """
    if shutil.which(options.docker) is None:
        raise PreflightError(
            f"{options.docker} is not installed",
            remedy="`check URL` checks the same rules on a running container",
        )
    with _container(options) as (name, url):
        _await_ping(options, name, url, progress, clock or Clock())
        findings = check_contract(url) if options.code is None else check_code(url, options.code, options.body)
        return [*findings, _stop_finding(options, name)]


@contextlib.contextmanager
def _container(options: LocalOptions) -> Iterator[tuple[str, str]]:
    name = f"sagemaker-local-{uuid.uuid4().hex[:8]}"
    _docker(docker_arguments(options, name))
    try:
        port = _docker([options.docker, "port", name, "8080/tcp"]).splitlines()[0].rsplit(":", 1)[-1]
        yield name, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(PreflightError):
            _docker([options.docker, "rm", "--force", name])


def _await_ping(options: LocalOptions, name: str, url: str, progress: Progress, clock: Clock) -> None:
    start = clock.now_s()
    while not _healthy(url):
        age = clock.now_s() - start
        state = _docker([options.docker, "inspect", "--format", "{{.State.Status}}", name]).strip()
        progress.status(f"{name}: {state}, {age:.0f} s")
        if state != "running" or age > options.start_limit_s:
            raise _start_failure(options, name, f"state {state} after {age:.0f} s without a 200 on /ping")
        clock.sleep(_POLL_S)
    progress.step(f"{name} answers /ping")


def _healthy(url: str) -> bool:
    try:
        return Probe(url).get("/ping", 2.0).status == 200
    except Unreachable:
        return False


def _start_failure(options: LocalOptions, name: str, reason: str) -> EndpointFailed:
    lines = _docker([options.docker, "logs", "--tail", "40", name]).splitlines()
    known = explain("", lines)
    cause = f" Known cause: {known.cause}." if known else ""
    return EndpointFailed(
        f"the container did not start: {reason}.{cause}",
        remedy=known.remedy if known else "",
        log_lines=lines,
    )


def _stop_finding(options: LocalOptions, name: str) -> Finding:
    """Like SageMaker, Docker kills after the limit; the exit status is then 137."""
    _docker([options.docker, "stop", "--time", str(STOP_LIMIT_S), name])
    status = _docker([options.docker, "inspect", "--format", "{{.State.ExitCode}}", name]).strip()
    rule = f"SIGTERM ends the container within {STOP_LIMIT_S} s"
    return Finding(rule, status != "137", f"killed, exit status {status}" if status == "137" else "")


def _docker(arguments: Sequence[str]) -> str:
    """Return stdout and stderr together, because `docker logs` writes the container's stderr to its own."""
    result = subprocess.run(  # noqa: S603 - the command is the user's own docker
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        known = explain(result.stdout)
        raise PreflightError(
            f"{' '.join(arguments[:2])} failed: {result.stdout.strip()[-400:]}",
            remedy=known.remedy if known else "",
        )
    return result.stdout
