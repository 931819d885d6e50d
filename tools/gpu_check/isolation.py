"""Runs a step in a process of its own, forked before CUDA is touched, so that its crash or hang ends nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.gpu_check.lines import Line

# A killed process may hang in the driver; nobody waits longer for it.
_BURIAL_S = 5.0
_LAST_LINES = 6


def run_isolated(
    step: Callable[[], Iterator[Line]], limit_s: float, take: Callable[[dict[str, Any]], None], log: Path
) -> str | None:
    """Call `take` with each line of `step` as it comes. Returns why the step ended early, or None.

    What the step prints goes to `log`. After `limit_s` seconds the process and its children are killed.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _run_here(step, writer, log)
    with contextlib.suppress(OSError):  # the child does it too; whoever comes first
        os.setpgid(pid, pid)
    os.close(writer)
    try:
        is_late = _forward(reader, time.monotonic() + limit_s, take)
    finally:
        os.close(reader)
    code = None if is_late else exit_code(pid, _BURIAL_S)
    # Processes that the step has left too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if is_late or code is None:
        exit_code(pid, _BURIAL_S)
        return f"killed after its limit of {limit_s:.0f} s" if is_late else "killed: it did not end"
    return None if code == 0 else f"the process ended with {code}"


def _run_here(step: Callable[[], Iterator[Line]], writer: int, log: Path) -> None:
    """In the child: never returns."""
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        with os.fdopen(writer, "w", encoding="utf-8") as file:
            for line in _caught(step):
                file.write(json.dumps(line.as_dict(), default=str) + "\n")
                file.flush()
        code = 0
    finally:
        sys.stdout.flush()
        # No destructors: the parent's threads and files are not this process's.
        os._exit(code)


def _caught(step: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """The step's lines, and one for the exception that ends it."""
    try:
        yield from step()
    except Exception as exc:  # noqa: BLE001 - the boundary around one step
        traceback.print_exc()
        where = traceback.format_exc().strip().splitlines()[-_LAST_LINES:]
        yield Line("failed", f"{type(exc).__name__}: {exc}"[:500], ok=False, details={"where": where})


def _forward(reader: int, deadline: float, take: Callable[[dict[str, Any]], None]) -> bool:
    """Hand on complete lines until the pipe closes; True if the deadline came first."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            found = os.read(reader, 1 << 16)
            if not found:
                return False
            *complete, pending = (pending + found).split(b"\n")
            for text in complete:
                take(json.loads(text))
    return True


def exit_code(pid: int, patience_s: float) -> int | None:
    """The exit code, negative for a signal; None if the process does not end within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None
