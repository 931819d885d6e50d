"""The hook process as PID 1 runs it: started before the engines, restarted by their rules.

It starts first because it decides whether an engine is needed, and because a hook that cannot be imported should end
the start before a model is loaded.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from container.hooks.card import HookCard, read_card
from container.run_dir import RunDir
from container.supervisor.crashes import Crashes
from container.supervisor.engine_process import EXIT_CRASHED, PERMANENT, stop
from container.supervisor.stall import StallWatch
from handler.seam.status import Phase, StatusBoard

logger = logging.getLogger(__name__)

_NAME = "the hook's process"
# Calls of C code that hold the interpreter's lock, as some libraries' do, keep the process from moving.
_STALL_S = 60.0
_DUMP_S = 0.5
# It has had as long as the engines before this begins (supervisor.py).
_STOP_S = 0.3


class HookProcess:
    """Starts the process, watches and restarts it. Call `check()` a few times a second."""

    def __init__(self, run_dir: RunDir) -> None:
        """Creates the status board; starts nothing."""
        self._run_dir = run_dir
        run_dir.hook.path.mkdir(mode=0o700, exist_ok=True)
        self.board = StatusBoard(run_dir.hook.board, create=True)
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s: float | None = time.monotonic()
        self._crashes = Crashes()
        self._card: HookCard | None = None
        self._draining = False
        self._watch = StallWatch(_STALL_S)
        self._kill_due_s: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None while no process runs."""
        return None if self._process is None else self._process.pid

    @property
    def card(self) -> HookCard | None:
        """What the hook is; None until it has loaded for the first time. A restart does not change it."""
        if self._card is None and self.board.phase is Phase.READY:
            self._card = read_card(self._run_dir.hook.card)
        return self._card

    @property
    def idle(self) -> bool:
        """True if no call runs."""
        return self.board["running"] == 0

    def check(self) -> None:
        """Start the process if it is due; detect a death or a hang. Sets `exit_code` when it gives up.

        A death while draining only means that no hook runs any more: the engines finish what they have.
        """
        if self._process is None:
            if self._due_s is not None and time.monotonic() >= self._due_s and not self._draining:
                self._start()
            return
        code = self._process.poll()
        if code is None:
            self._check_stalled(self._process)
            return
        self._process = None
        self._due_s = self._kill_due_s = None
        # Nothing of it runs any more; a drain waits for this.
        self.board["running"] = 0
        if self._draining:
            self._on_death_in_drain(code)
        else:
            self.exit_code = self._on_death(code)

    def drain(self) -> None:
        """Refuse new calls and do not restart after a death."""
        self._draining = True
        self.board["draining"] = 1

    def terminate(self) -> None:
        """Send SIGTERM: the process fails its open calls and exits. `close` waits for it."""
        if self._process is not None:
            self._process.terminate()

    def close(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop the process with all that it started, and close its board."""
        stop(self._process, _STOP_S, hurried)
        self.board.close()

    def _start(self) -> None:
        epoch = self.board["epoch"] + 1
        self.board.enter(Phase.STARTING, f"starting {_NAME}")
        self.board["epoch"] = epoch
        command = [sys.executable, "-m", "container.hooks.host", str(self._run_dir.path), str(epoch)]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(command, env=environ, start_new_session=True)  # noqa: S603 - our own module

    def _on_death(self, code: int) -> int | None:
        """Schedule a restart after a back-off, or return the exit code to give up with."""
        has_said = self.board.phase is Phase.FAILED
        detail = self.board.detail if has_said else f"{_NAME} ended with code {code}"
        # The user's own code may exit with any code; only what the process said of itself counts.
        if has_said and code in PERMANENT:
            logger.error("cannot start: %s", detail)
            return code
        self.board["restarts"] += 1
        self._due_s = self._crashes.add(_NAME, detail)
        if self._due_s is None:
            self.board.enter(Phase.FAILED, f"{_NAME} crashed too often")
            return EXIT_CRASHED
        self.board.enter(Phase.RESTARTING, f"{_NAME} died and is restarted")
        return None

    def _on_death_in_drain(self, code: int) -> None:
        """Have the web workers fail what it left open."""
        logger.error("%s ended with code %d while draining", _NAME, code)
        self.board.enter(Phase.FAILED, f"{_NAME} ended while draining")

    def _check_stalled(self, process: subprocess.Popen[bytes]) -> None:
        """On a hang: set the board, so web workers fail requests at once; have the stacks dumped; then kill."""
        if self._kill_due_s is not None:
            if time.monotonic() >= self._kill_due_s:
                process.kill()
            return
        if self.board.phase is not Phase.READY:
            return
        silent_s = self._watch.hung_for_s(process.pid, self.board["heartbeat_ns"], 0.0)
        if silent_s is not None:
            logger.error("%s has not moved for %.0f s; its stacks follow, then it is killed", _NAME, silent_s)
            self.board.enter(Phase.RESTARTING, f"{_NAME} hangs and is restarted")
            process.send_signal(signal.SIGUSR1)
            self._kill_due_s = time.monotonic() + _DUMP_S
