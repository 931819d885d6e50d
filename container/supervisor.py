"""Starts, watches and stops the two children of PID 1: gunicorn and the engine.

The engine is restarted in place when it dies, because replacing a SageMaker instance takes many minutes and
reloading takes seconds; after three deaths in ten minutes the container gives up, so that the platform replaces it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque

import msgspec

from container.run_dir import LISTEN_FD_VARIABLE, RUN_DIR_VARIABLE, WORKERS_VARIABLE, RunDir
from container.settings import Settings
from handler.config import EngineConfig, Quantize
from handler.status import Phase, StatusBoard

logger = logging.getLogger(__name__)

EXIT_CRASHED = 70
# Exit codes of an engine that can never start like this: handler.errors.
_PERMANENT = {2, 3}
_CRASH_WINDOW_S = 600.0
_MAX_CRASHES = 3
_BACKOFF_S = (0.0, 2.0, 10.0)
# SageMaker kills 30 s after SIGTERM; the rest is for the processes to go.
DRAIN_S = 24.0
_STOP_WEB_S = 3.0
_STOP_ENGINE_S = 2.0


class Supervisor:
    """Owns both child processes. `run()` returns the container's exit code."""

    def __init__(self, settings: Settings, run_dir: RunDir, listen_fd: int) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._listen_fd = listen_fd
        self._board = StatusBoard(run_dir.board, create=True)
        self._crashes: deque[float] = deque()
        self._engine: subprocess.Popen[bytes] | None = None
        self._engine_due_s: float | None = time.monotonic()
        self._web: subprocess.Popen[bytes] | None = None
        self._num_signals = 0
        self._drain_until_s: float | None = None
        self._announced = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Serve until a signal, a permanent failure or too many crashes."""
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
            self._board.close()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._num_signals += 1

    def _tick(self) -> int | None:
        """Look after everything once, then sleep until a child or a signal says something, 0.1 s at most."""
        for check in (self._check_signals, self._check_web, self._check_engine):
            code = check()
            if code is not None:
                return code
        self._announce()
        self._reap_orphans()
        ready, _, _ = select.select([self._wake_read], [], [], 0.1)
        if ready:
            os.read(self._wake_read, 4096)
        return None

    def _check_signals(self) -> int | None:
        """First signal: drain. Second: leave at once. The exit code is 0 either way: it was asked for."""
        if not self._num_signals:
            return None
        if self._drain_until_s is None:
            self._board["draining"] = 1
            self._drain_until_s = time.monotonic() + DRAIN_S
            logger.info("draining: finishing what is in flight, taking nothing new")
        idle = self._board["running"] + self._board["waiting"] == 0
        overdue = time.monotonic() >= self._drain_until_s
        return 0 if idle or overdue or self._num_signals > 1 else None

    def _check_web(self) -> int | None:
        if self._web is not None and self._web.poll() is not None:
            logger.error("the web server ended with code %s", self._web.returncode)
            return EXIT_CRASHED
        return None

    def _check_engine(self) -> int | None:
        if self._engine is None:
            if self._engine_due_s is not None and time.monotonic() >= self._engine_due_s:
                self._start_engine()
            return None
        code = self._engine.poll()
        if code is None:
            self._check_stalled()
            return None
        self._engine = None
        if self._drain_until_s is not None:
            return 0
        return self._on_engine_death(code)

    def _on_engine_death(self, code: int) -> int | None:
        """Restart after a back-off, or give up."""
        detail = self._board.detail if self._board.phase is Phase.FAILED else f"the engine ended with code {code}"
        if code in _PERMANENT:
            logger.error("cannot start: %s", detail)
            return code
        now = time.monotonic()
        self._crashes.append(now)
        while self._crashes[0] < now - _CRASH_WINDOW_S:
            self._crashes.popleft()
        self._board["running"] = self._board["waiting"] = 0
        self._board["restarts"] += 1
        self._board.enter(Phase.RESTARTING, "the engine died and is restarted")
        logger.error("%s (crash %d of %d in 10 minutes)", detail, len(self._crashes), _MAX_CRASHES)
        if len(self._crashes) >= _MAX_CRASHES:
            logger.error("giving up: the engine crashed %d times in 10 minutes", len(self._crashes))
            return EXIT_CRASHED
        self._engine_due_s = now + _BACKOFF_S[len(self._crashes) - 1]
        return None

    def _check_stalled(self) -> None:
        """Kill an engine whose loop has not moved; the next tick sees the death."""
        if self._engine is None or self._board.phase is not Phase.READY:
            return
        silent_s = (time.monotonic_ns() - self._board["heartbeat_ns"]) / 1e9
        if silent_s > self._settings.engine_stall_timeout_s:
            logger.error("the engine has not moved for %.0f s; killing it", silent_s)
            self._engine.kill()

    def _start_engine(self) -> None:
        epoch = self._board["epoch"] + 1
        config = self._engine_config(epoch)
        path = self._run_dir.engine_config
        path.write_bytes(msgspec.json.encode(config))
        self._board.enter(Phase.STARTING, "starting the engine")
        self._board["epoch"] = epoch
        command = [sys.executable, "-m", "handler", str(path)]
        environ = {**os.environ, **self._metrics_environ()}
        self._engine = subprocess.Popen(command, env=environ, start_new_session=True)  # noqa: S603 - our own module

    def _engine_config(self, epoch: int) -> EngineConfig:
        s = self._settings
        return EngineConfig(
            model=s.model,
            revision=s.revision,
            served_model_id=s.served_model_name,
            quantize=Quantize(s.quantize),
            dtype=s.dtype,
            device=s.device,
            trust_remote_code=s.trust_remote_code,
            cache_dir=s.cache_dir,
            max_model_len=s.max_total_tokens,
            max_num_seqs=s.max_batch_size,
            max_num_batched_tokens=s.max_batch_prefill_tokens,
            max_waiting=s.max_concurrent_requests,
            kv_capacity_tokens=s.max_batch_total_tokens,
            num_threads=s.engine_threads,
            socket_path=str(self._run_dir.socket(epoch)),
            board_path=str(self._run_dir.board),
            card_path=str(self._run_dir.card),
            log_level=s.log_level,
            log_json=s.json_output,
            epoch=epoch,
        )

    def _start_web(self) -> subprocess.Popen[bytes]:
        environ = {
            **os.environ,
            LISTEN_FD_VARIABLE: str(self._listen_fd),
            RUN_DIR_VARIABLE: str(self._run_dir.path),
            WORKERS_VARIABLE: str(self._settings.web_workers),
            **self._metrics_environ(),
        }
        command = [sys.executable, "-m", "gunicorn", "--config", "python:container.gunicorn_conf"]
        return subprocess.Popen(  # noqa: S603 - our own module
            [*command, "container.gunicorn_conf:application()"],
            env=environ,
            pass_fds=(self._listen_fd,),
            start_new_session=True,
        )

    def _metrics_environ(self) -> dict[str, str]:
        """Read by prometheus_client when it is imported: where each process keeps its counts."""
        return {"PROMETHEUS_MULTIPROC_DIR": str(self._run_dir.path)}

    def _announce(self) -> None:
        """Say once, with a command to paste, that requests are answered."""
        if self._announced or not self._board.ready:
            return
        if _ping(self._settings.port):
            self._announced = True
            logger.info("ready: %s on port %d", self._board.detail, self._settings.port)
            if sys.stdout.isatty():
                sys.stdout.write(_ready_text(self._settings.port, self._board.detail))
                sys.stdout.flush()

    def _reap_orphans(self) -> None:
        """As PID 1, collect grandchildren nobody else waits for."""
        if os.getpid() != 1:
            return
        ours = {child.pid for child in (self._engine, self._web) if child is not None}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)

    def _stop_children(self) -> None:
        """The engine first: it ends what is left with an error message, which the web server still passes on."""
        _stop(self._engine, _STOP_ENGINE_S)
        _stop(self._web, _STOP_WEB_S)


def _stop(child: subprocess.Popen[bytes] | None, patience_s: float) -> None:
    if child is None or child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


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
