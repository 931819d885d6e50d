"""Starts, watches and stops the children of PID 1: gunicorn, the engines, and where wanted a hook and an exporter.

While one engine serves, the death of another does not end the container. The container ends when every engine has
given up, or when one fails for good before any serves: all have the same settings and model. A hook that has given up
ends the container too. Engines start once it is known that the hook loads no model of its own.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time

from container.hooks.found import running_files
from container.hooks.user_code.hook import HookFiles
from container.run_dir import LISTEN_FD_VARIABLE, RUN_DIR_VARIABLE, WORKERS_VARIABLE, RunDir
from container.settings import Settings
from container.supervisor.cuda_compat import engine_libraries
from container.supervisor.engine_process import EXIT_CRASHED, PERMANENT, EngineProcess, Replica, stop
from container.supervisor.hook_process import HookProcess
from container.supervisor.trace_process import TraceProcess
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)

# SageMaker kills 30 s after SIGTERM. What is left up to 28 s is for stopping the processes.
DRAIN_S = 23.5
_END_S = 28.0
_STOP_WEB_S = 2.5
# The drain ends after this long without requests: one that was being read at the signal has reached the engine by then.
_QUIET_S = 0.5
# So long no hook runs before the engines drain: a call that is on its way to the process may ask them later.
_HOOK_QUIET_S = 0.3


class Supervisor:
    """Owns all child processes. `run()` returns the container's exit code."""

    def __init__(self, settings: Settings, run_dir: RunDir, listen_fd: int, hook: HookFiles | None = None) -> None:
        """`hook`: a user's code that a process of its own runs."""
        self._settings = settings
        self._run_dir = run_dir
        self._listen_fd = listen_fd
        self._libraries = engine_libraries(os.environ)
        self._hook_files = [] if hook is None else running_files(hook)
        self._hook = None if hook is None else HookProcess(run_dir)
        self._engines: list[EngineProcess] = []
        self._add_engines(settings.engine_replicas or 1, 0)
        self._web: subprocess.Popen[bytes] | None = None
        self._traces = TraceProcess(settings, run_dir) if settings.traced else None
        self._num_signals = 0
        self._drain_until_s: float | None = None
        self._busy_s = self._hook_busy_s = 0.0
        self._announced = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Serve until a signal, a permanent failure or too many crashes. Returns the exit code."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            self._web = self._start_web()
            while True:
                code = self._tick()
                if code is not None:
                    return code
        finally:
            self._stop_children()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._num_signals += 1

    def _tick(self) -> int | None:
        """Run every check once, then sleep until a signal (also SIGCHLD) arrives, 0.1 s at most."""
        for check in (self._check_signals, self._check_web, self._check_refusal, self._check_hook, self._check_engines):
            code = check()
            if code is not None:
                return code
        if self._traces is not None:
            self._traces.check()
        self._announce()
        self._reap_orphans()
        ready, _, _ = select.select([self._wake_read], [], [], 0.1)
        if ready:
            os.read(self._wake_read, 4096)
        return None

    def _check_signals(self) -> int | None:
        """First signal: drain. Second: stop at once. Exit code 0 either way, since the stop was requested."""
        if not self._num_signals:
            return None
        now = time.monotonic()
        if self._drain_until_s is None:
            if self._hook is not None:
                self._hook.drain()
            self._drain_until_s = now + DRAIN_S
            self._busy_s = self._hook_busy_s = now
            logger.info("draining: finishing what is in flight, taking nothing new")
        if self._hook is not None and not self._hook.idle:
            self._hook_busy_s = now
        if self._hook is None or now - self._hook_busy_s >= _HOOK_QUIET_S:
            for engine in self._engines:
                engine.drain()
        if not self._idle:
            self._busy_s = now
        return 0 if self._quiet or now >= self._drain_until_s or self._hurried() else None

    @property
    def _idle(self) -> bool:
        """True if no request is in flight."""
        return all(engine.idle for engine in self._engines) and (self._hook is None or self._hook.idle)

    @property
    def _quiet(self) -> bool:
        """True if draining and no request has been in flight for `_QUIET_S`."""
        return self._drain_until_s is not None and time.monotonic() - self._busy_s >= _QUIET_S

    def _hurried(self) -> bool:
        return self._num_signals > 1

    def _check_refusal(self) -> int | None:
        """End if a web worker cannot use the model's text files: every other worker would fail the same way."""
        try:
            reason = self._run_dir.refusal.read_text("utf-8")
        except FileNotFoundError:
            return None
        logger.error("cannot start: %s", reason)
        return BadModel.exit_code

    def _check_web(self) -> int | None:
        if self._web is not None and self._web.poll() is not None:
            logger.error("the web server ended with code %s", self._web.returncode)
            return EXIT_CRASHED
        return None

    def _check_hook(self) -> int | None:
        if self._hook is None:
            return None
        self._hook.check()
        return self._hook.exit_code

    @property
    def _needs_engine(self) -> bool:
        """False while that is not known, and for a hook that loads its own model."""
        card = None if self._hook is None else self._hook.card
        return self._hook is None or (card is not None and not card.owns_model)

    def _check_engines(self) -> int | None:
        if not self._needs_engine:
            return None
        first = self._engines[0].board
        if not self._settings.engine_replicas and first["engines_wanted"] > len(self._engines):
            self._add_engines(first["engines_wanted"], first["devices_per_engine"])
        for engine in self._engines:
            engine.check()
        codes = [engine.exit_code for engine in self._engines if engine.exit_code is not None]
        serving = any(engine.board.ready for engine in self._engines)
        if codes and (len(codes) == len(self._engines) or (codes[-1] in PERMANENT and not serving)):
            return codes[-1]
        return None

    def _add_engines(self, number: int, devices: int) -> None:
        """Bring the number of engines to `number`, with `devices` GPUs each.

        Web workers read the number from the first engine's board.
        """
        replicas = [Replica(index, number, devices) for index in range(number)]
        for engine, replica in zip(self._engines, replicas, strict=False):
            engine.replica = replica
        for replica in replicas[len(self._engines) :]:
            self._engines.append(self._new_engine(replica))
        self._engines[0].board["num_engines"] = number

    def _new_engine(self, replica: Replica) -> EngineProcess:
        return EngineProcess(self._settings, self._run_dir, replica, self._libraries, self._hook_files)

    def _start_web(self) -> subprocess.Popen[bytes]:
        environ = {
            **os.environ,
            LISTEN_FD_VARIABLE: str(self._listen_fd),
            RUN_DIR_VARIABLE: str(self._run_dir.path),
            WORKERS_VARIABLE: str(self._settings.web_workers),
            **self._run_dir.metrics_environ(),
        }
        command = [sys.executable, "-m", "gunicorn", "--config", "python:container.gunicorn_conf"]
        return subprocess.Popen(  # noqa: S603 - our own module
            [*command, "container.gunicorn_conf:application()"],
            env=environ,
            pass_fds=(self._listen_fd,),
            start_new_session=True,
        )

    def _announce(self) -> None:
        """Log once that requests are answered; on a terminal, print a command to try."""
        boards = [engine.board for engine in self._engines]
        if self._hook is not None and not self._needs_engine:
            boards = [self._hook.board]
        ready = next((board for board in boards if board.ready), None)
        if self._announced or ready is None:
            return
        if _ping(self._settings.port):
            self._announced = True
            logger.info("ready: %s on port %d", ready.detail, self._settings.port)
            if sys.stdout.isatty() and self._needs_engine:
                sys.stdout.write(_ready_text(self._settings.port, ready.detail))
                sys.stdout.flush()

    def _reap_orphans(self) -> None:
        """As PID 1, reap orphaned grandchildren."""
        if os.getpid() != 1:
            return
        ours = {engine.pid for engine in self._engines} | {None if self._web is None else self._web.pid}
        ours |= {None if each is None else each.pid for each in (self._traces, self._hook)}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)

    def _stop_children(self) -> None:
        """Stop web server and engines, in the order that loses nothing.

        After a complete drain the web server stops first, so a request it is still reading finds an engine. Otherwise
        the engines and the hook stop first: they fail their open requests, and the web server still delivers those
        errors. The last spans come from the web server, so their exporter ends last, in the time that is left.
        """
        if self._quiet:
            stop(self._web, _STOP_WEB_S, self._hurried)
        for engine in self._engines:
            engine.terminate()
        if self._hook is not None:
            self._hook.terminate()
        for engine in self._engines:
            engine.close(self._hurried)
        if self._hook is not None:
            self._hook.close(self._hurried)
        stop(self._web, _STOP_WEB_S, self._hurried)
        if self._traces is not None:
            started_s = time.monotonic() if self._drain_until_s is None else self._drain_until_s - DRAIN_S
            self._traces.close(started_s + _END_S - time.monotonic(), self._hurried)


def _ping(port: int) -> bool:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ready_text(port: int, detail: str) -> str:
    return f"""
Ready: {detail} on http://localhost:{port} - try

  curl http://localhost:{port}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"messages":[{{"role":"user","content":"What is deep learning?"}}],"stream":true,"max_tokens":60}}'

"""
