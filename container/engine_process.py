"""One engine as PID 1 sees it: its process, its board, its deaths.

It is restarted in place when it dies, because replacing a SageMaker instance takes many minutes and reloading takes
seconds; after three deaths in ten minutes it is given up. What that means for the container is the supervisor's matter.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass

import msgspec

from container.run_dir import EngineDir
from container.settings import Settings
from handler.config import EngineConfig, KVLayout, Quantize
from handler.status import Phase, StatusBoard

logger = logging.getLogger(__name__)

EXIT_CRASHED = 70
# Exit codes of an engine that can never start like this: handler.errors.
PERMANENT = frozenset({2, 3})
_CRASH_WINDOW_S = 600.0
_MAX_CRASHES = 3
_BACKOFF_S = (0.0, 2.0, 10.0)
_STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the engines it is, how many there are, and how many GPUs each takes (0: the first engine decides)."""

    index: int
    num_engines: int = 1
    devices: int = 0


class EngineProcess:
    """Starts one engine, watches it and starts it again. `check()` is to be called a few times a second."""

    def __init__(self, settings: Settings, engine_dir: EngineDir, place: Place) -> None:
        """Nothing is started; the board exists when this returns."""
        engine_dir.path.mkdir(mode=0o700, exist_ok=True)
        self.board = StatusBoard(engine_dir.board, create=True)
        self.exit_code: int | None = None
        self._settings = settings
        self._engine_dir = engine_dir
        self.place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s: float | None = time.monotonic()
        self._crashes: deque[float] = deque()
        self._draining = False

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return None if self._process is None else self._process.pid

    @property
    def _name(self) -> str:
        """What the log calls it."""
        return "the engine" if self.place.num_engines == 1 else f"engine {self.place.index}"

    @property
    def idle(self) -> bool:
        """True if nothing is in flight."""
        return self.board["running"] + self.board["waiting"] == 0

    def check(self) -> None:
        """Start it if it is due, see whether it died or hangs. Sets `exit_code` once it can never go on."""
        if self._process is None:
            if self._due_s is not None and time.monotonic() >= self._due_s and not self._draining:
                self._start()
            return
        code = self._process.poll()
        if code is None:
            self._check_stalled()
            return
        self._process = None
        self._due_s = None
        self.exit_code = 0 if self._draining else self._on_death(code)

    def drain(self) -> None:
        """Take nothing new; a death is the end."""
        self._draining = True
        self.board["draining"] = 1
        if self._process is None:
            self.exit_code = 0

    def terminate(self) -> None:
        """Ask it to go: it ends what is left with an error message. `close` waits for it."""
        if self._process is not None:
            self._process.terminate()

    def close(self) -> None:
        """Stop the process and unmap the board."""
        stop(self._process, _STOP_S)
        self.board.close()

    def _on_death(self, code: int) -> int | None:
        """Restart after a back-off, or give up."""
        detail = self.board.detail if self.board.phase is Phase.FAILED else f"{self._name} ended with code {code}"
        if code in PERMANENT:
            logger.error("cannot start: %s", detail)
            return code
        now = time.monotonic()
        self._crashes.append(now)
        while self._crashes[0] < now - _CRASH_WINDOW_S:
            self._crashes.popleft()
        self.board["running"] = self.board["waiting"] = 0
        self.board["restarts"] += 1
        self.board.enter(Phase.RESTARTING, f"{self._name} died and is restarted")
        logger.error("%s (crash %d of %d in 10 minutes)", detail, len(self._crashes), _MAX_CRASHES)
        if len(self._crashes) >= _MAX_CRASHES:
            logger.error("giving up: %s crashed %d times in 10 minutes", self._name, len(self._crashes))
            self.board.enter(Phase.FAILED, f"{self._name} crashed too often")
            return EXIT_CRASHED
        self._due_s = now + _BACKOFF_S[len(self._crashes) - 1]
        return None

    def _check_stalled(self) -> None:
        """Kill an engine whose loop has not moved; the next check sees the death."""
        if self._process is None or self.board.phase is not Phase.READY:
            return
        silent_s = (time.monotonic_ns() - self.board["heartbeat_ns"]) / 1e9
        if silent_s > self._settings.engine_stall_timeout_s:
            logger.error("%s has not moved for %.0f s; killing it", self._name, silent_s)
            self._process.kill()

    def _start(self) -> None:
        epoch = self.board["epoch"] + 1
        path = self._engine_dir.engine_config
        path.write_bytes(msgspec.json.encode(self._config(epoch)))
        self.board.enter(Phase.STARTING, f"starting {self._name}")
        self.board["epoch"] = epoch
        command = [sys.executable, "-m", "handler", str(path)]
        self._process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own module

    def _config(self, epoch: int) -> EngineConfig:
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
            kv_layout=KVLayout(s.kv_layout),
            num_threads=s.engine_threads or self._share_of_cores(),
            index=self.place.index,
            num_engines=self.place.num_engines,
            num_devices=s.num_gpus,
            devices_per_engine=self.place.devices,
            socket_path=str(self._engine_dir.socket(epoch)),
            board_path=str(self._engine_dir.board),
            card_path=str(self._engine_dir.card),
            log_level=s.log_level,
            epoch=epoch,
        )

    def _share_of_cores(self) -> int:
        """Threads, when engines share the processor; 0 for one engine, which takes what it finds."""
        if self.place.num_engines == 1:
            return 0
        return max(1, len(os.sched_getaffinity(0)) // self.place.num_engines)


def stop(process: subprocess.Popen[bytes] | None, patience_s: float) -> None:
    """Terminate a child and wait for it; kill it after `patience_s` seconds."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
