"""One engine as PID 1 runs it: its process, its status board, its restarts.

A dead engine is restarted in place: reloading takes seconds, replacing a SageMaker instance takes many minutes. After
three deaths in ten minutes this gives up, and the supervisor decides whether the container ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from container.run_dir import RunDir
from container.settings import Settings
from container.supervisor.crashes import Crashes
from container.supervisor.stall import StallWatch
from handler.seam.config import ActivationDtype, EngineConfig, KVCacheDtype, KVLayout, Quantize
from handler.seam.errors import BadConfiguration, BadModel, StartupError
from handler.seam.status import Phase, StatusBoard
from handler.seam.suspects import Hazards, Suspects

logger = logging.getLogger(__name__)

EXIT_CRASHED = StartupError.exit_code
# Exit codes after which a restart would fail the same way.
PERMANENT = frozenset({BadConfiguration.exit_code, BadModel.exit_code})
# The drain (supervisor.py), this and the web server's stop must add up to less than 28 s.
_STOP_S = 1.5
# Time for a hung engine to dump its stacks, and for a child to exit after a second signal.
_DUMP_S = 0.5
_HURRY_S = 0.7


@dataclass(frozen=True, slots=True)
class Replica:
    """Which engine this is, of how many, and GPUs for each (0: the first engine decides)."""

    index: int
    num_engines: int = 1
    devices: int = 0


def visible_gpus(replica: Replica, environ: Mapping[str, str]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for one of several engines: its own GPUs, so that no library makes a context on others.

    Empty for a single engine, and before the first engine has decided.
    """
    if replica.num_engines == 1 or not replica.devices:
        return {}
    all_gpus = [each.strip() for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    own = range(replica.index * replica.devices, (replica.index + 1) * replica.devices)
    return {"CUDA_VISIBLE_DEVICES": ",".join(all_gpus[i] if i < len(all_gpus) else str(i) for i in own)}


class EngineProcess:
    """Starts one engine, watches and restarts it. Call `check()` a few times a second."""

    def __init__(
        self,
        settings: Settings,
        run_dir: RunDir,
        replica: Replica,
        libraries: Mapping[str, str],
        hook_files: Sequence[str] = (),
    ) -> None:
        """Creates the status board; starts nothing.

        `libraries`: variables that say where CUDA's driver library is. `hook_files`: a user's code that runs.
        """
        self._run_dir = run_dir
        self._engine_dir = run_dir.engine(replica.index)
        self._engine_dir.path.mkdir(mode=0o700, exist_ok=True)
        self.board = StatusBoard(self._engine_dir.board, create=True)
        self.exit_code: int | None = None
        self._settings = settings
        self.replica = replica
        self._libraries = libraries
        self._hook_files = hook_files
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s: float | None = time.monotonic()
        self._crashes = Crashes()
        self._draining = False
        self._hazards = Hazards(self._engine_dir.hazards, create=True)
        # Shared by all engines: a request that killed one must not kill the others in turn.
        self._suspects = Suspects(run_dir.suspects, create=replica.index == 0)
        self._watch = StallWatch(settings.engine_stall_timeout_s)
        self._kill_due_s: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        return None if self._process is None else self._process.pid

    @property
    def _name(self) -> str:
        """The engine's name in the log."""
        return "the engine" if self.replica.num_engines == 1 else f"engine {self.replica.index}"

    @property
    def idle(self) -> bool:
        """True if no request is running or waiting."""
        return self.board["running"] + self.board["waiting"] == 0

    def check(self) -> None:
        """Start the engine if it is due; detect a death or a hang. Sets `exit_code` when it gives up."""
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
        """Refuse new requests and do not restart after a death."""
        self._draining = True
        self.board["draining"] = 1
        if self._process is None:
            self.exit_code = 0

    def terminate(self) -> None:
        """Send SIGTERM: the engine fails its open requests and exits. `close` waits for it."""
        if self._process is not None:
            self._process.terminate()

    def close(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop the process and close its files. SIGTERM comes first, so the engine can fail its open requests."""
        stop(self._process, _STOP_S, hurried)
        for each in (self.board, self._hazards, self._suspects):
            each.close()

    def _on_death(self, code: int) -> int | None:
        """Schedule a restart after a back-off, or return the exit code to give up with."""
        detail = self.board.detail if self.board.phase is Phase.FAILED else f"{self._name} ended with code {code}"
        if code in PERMANENT:
            logger.error("cannot start: %s", detail)
            return code
        self._kill_due_s = None
        self._suspects.record_deaths(self._hazards.take())
        self.board["running"] = self.board["waiting"] = 0
        self.board["restarts"] += 1
        self.board.enter(Phase.RESTARTING, f"{self._name} died and is restarted")
        self._due_s = self._crashes.add(self._name, detail)
        if self._due_s is None:
            self.board.enter(Phase.FAILED, f"{self._name} crashed too often")
            return EXIT_CRASHED
        return None

    def _check_stalled(self) -> None:
        """On a hang: set the board, so web workers fail requests at once; have the stacks dumped; then kill."""
        if self._process is None:
            return
        if self._kill_due_s is not None:
            if time.monotonic() >= self._kill_due_s:
                self._process.kill()
            return
        if self.board.phase is not Phase.READY:
            return
        limit_s = self.board["step_limit_ms"] / 1000
        silent_s = self._watch.hung_for_s(self._process.pid, self.board["heartbeat_ns"], limit_s)
        if silent_s is not None:
            logger.error("%s has not moved for %.0f s; its stacks follow, then it is killed", self._name, silent_s)
            self.board.enter(Phase.RESTARTING, f"{self._name} hangs and is restarted")
            self._process.send_signal(signal.SIGUSR1)
            self._kill_due_s = time.monotonic() + _DUMP_S

    def _start(self) -> None:
        epoch = self.board["epoch"] + 1
        path = self._engine_dir.engine_config
        path.write_bytes(msgspec.json.encode(self._config(epoch)))
        self.board.enter(Phase.STARTING, f"starting {self._name}")
        self.board["epoch"] = epoch
        command = [sys.executable, "-m", "handler", str(path)]
        environ = {**os.environ, **self._run_dir.metrics_environ(), **visible_gpus(self.replica, os.environ)}
        environ |= self._libraries
        self._process = subprocess.Popen(command, env=environ, start_new_session=True)  # noqa: S603 - our own module

    def _config(self, epoch: int) -> EngineConfig:
        s = self._settings
        return EngineConfig(
            model=s.model,
            revision=s.revision,
            served_model_id=s.served_model_name,
            quantize=Quantize(s.quantize),
            dtype=s.dtype,
            activation_dtype=ActivationDtype(s.activation_dtype),
            device=s.device,
            trust_remote_code=s.trust_remote_code,
            refuse_custom_code=s.refuse_custom_code,
            hook_files=list(self._hook_files),
            cache_dir=s.cache_dir,
            max_model_len=s.max_total_tokens,
            max_num_seqs=s.max_batch_size,
            max_num_batched_tokens=s.max_batch_prefill_tokens,
            max_waiting=s.max_concurrent_requests,
            max_waiting_tokens=s.max_queued_tokens,
            kv_capacity_tokens=s.max_batch_total_tokens,
            kv_layout=KVLayout(s.kv_layout),
            kv_cache_dtype=KVCacheDtype(s.kv_cache_dtype),
            deterministic=s.deterministic,
            num_draft_tokens=s.num_draft_tokens,
            draft_model=s.speculative_model,
            adapters=s.adapters,
            max_adapters=s.max_adapters,
            reserves_adapters=s.reserves_adapters,
            max_adapter_rank=s.max_adapter_rank,
            max_cpu_adapters=s.max_cpu_adapters,
            num_threads=s.engine_threads,
            index=self.replica.index,
            num_engines=self.replica.num_engines,
            has_given_engines=bool(s.engine_replicas),
            num_devices=s.num_gpus,
            devices_per_engine=self.replica.devices,
            socket_path=str(self._engine_dir.socket(epoch)),
            board_path=str(self._engine_dir.board),
            card_path=str(self._engine_dir.card),
            hazards_path=str(self._engine_dir.hazards),
            suspects_path=str(self._run_dir.suspects),
            adapters_path=str(self._run_dir.adapters),
            log_level=s.log_level,
            log_json=s.json_output,
        )


def stop(
    process: subprocess.Popen[bytes] | None, patience_s: float, hurried: Callable[[], bool] = lambda: False
) -> None:
    """Terminate a child that leads its own session; after `patience_s` seconds kill its whole process group.

    Once `hurried()` is true the limit is 0.7 s.
    """
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
    started = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - started >= (_HURRY_S if hurried() else patience_s):
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
