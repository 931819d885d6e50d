"""The engine process: load the model, verify its results, bind the socket, run.

PID 1 starts it as `python -m handler CONFIG.json`. Exit codes: 0 after SIGTERM, those of handler.seam.errors if it
cannot start, 70 if it breaks while running.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from handler.adapters.location import fetch_adapters
from handler.model.draft.settings import locate_draft
from handler.model.location import locate
from handler.seam.atomic_file import atomic_write
from handler.seam.config import EngineConfig, load_config
from handler.seam.errors import StartupError
from handler.seam.lifeline import die_with_parent
from handler.seam.logs import configure_logging
from handler.seam.status import Phase, StatusBoard

if TYPE_CHECKING:
    from handler.engine.core import EngineCore

logger = logging.getLogger("handler")

# Capacity of torch's and oneDNN's caches of compiled matrix products, 1024 by default. They hold one entry of 0.3 to
# 1.8 MB for each weight shape and number of rows (docs/decisions/0045).
_MAX_COMPILED = "256"
# Pauses of 50 ns: 0.5 ms cover the gaps within a step. libgomp's 300,000 keep a core from its neighbours for 15 ms.
_SPINS = "10000"


def main() -> int:
    """Run the engine until SIGTERM. Returns the exit code."""
    config = load_config(sys.argv[1])
    configure_logging("engine", level=config.log_level, as_json=config.log_json)
    die_with_parent(signal.SIGKILL)
    board = StatusBoard(Path(config.board_path))
    # Log the stacks of all threads if a library crashes, and on SIGUSR1: PID 1 sends it before it kills a hung engine.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        return _serve(config, board)
    except StartupError as exc:
        board.enter(Phase.FAILED, str(exc))  # PID 1 logs it
        return exc.exit_code
    except Exception as exc:
        logger.exception("the engine cannot go on")
        board.enter(Phase.FAILED, f"the engine failed: {type(exc).__name__}")
        return StartupError.exit_code


def _serve(config: EngineConfig, board: StatusBoard) -> int:
    started = time.monotonic()
    core, model_id = _start(config, board)
    _stop_on_sigterm(core)
    _freeze_objects()
    board.beat()
    board.enter(Phase.READY, f"serving {model_id}")
    _catch_up(config, core, board)
    logger.info("ready in %.1f s", time.monotonic() - started)
    core.run()
    core.shut_down()
    if core.adapters is not None and core.adapters.is_reading:
        # Python would wait for the thread, whose adapter nobody needs; PID 1 does not wait that long.
        logging.shutdown()
        os._exit(0)
    return 0


def _catch_up(config: EngineConfig, core: EngineCore, board: StatusBoard) -> None:
    """Register adapters that were listed while this engine started: workers tell only engines that are ready.

    Requests wait in the socket meanwhile.
    """
    from handler.engine.adapters.at_start import catch_up

    if core.adapters is not None:
        catch_up(config, core.adapters, board.beat)


def _start(config: EngineConfig, board: StatusBoard) -> tuple[EngineCore, str]:
    """The engine, ready to run, and the model's id. Writes the model card. Raises StartupError."""
    board.enter(Phase.PREPARING, "looking for the model")
    # Loading creates a million objects that stay alive; collecting among them takes a tenth of the start-up time.
    gc.disable()
    # transformers imports scipy, if installed, for the loss of object detectors: 0.4 s that no language model needs.
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]
    bound_compiled()
    bound_spinning()
    # compressed-tensors draws progress bars among the lines of the log.
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Before torch is imported, which takes seconds: a missing model is reported at once.
    # What is missing is downloaded now: `locate` leaves no library that contacts the hub.
    fetch_adapters(config, board.advance)
    draft_dir = locate_draft(config, board.advance)
    located = locate(config, board.advance)
    board.enter(Phase.PREPARING, "importing torch and transformers")
    from handler.startup import start

    core, card = start(config, board, located, draft_dir)
    if config.deterministic:
        core.keep_threads()
    # Web workers read the card as soon as the phase is READY.
    with atomic_write(Path(config.card_path)) as scratch:
        scratch.write_bytes(msgspec.json.encode(card))
    return core, card.model_id


def bound_compiled() -> None:
    """Limit the caches of compiled kernels, unless the environment does. Call it before torch is imported."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, _MAX_COMPILED)


def bound_spinning() -> None:
    """Limit how long OpenMP's threads spin for work, unless the environment does. Call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _stop_on_sigterm(core: EngineCore) -> None:
    def stop(_signum: int, _frame: FrameType | None) -> None:
        core.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _freeze_objects() -> None:
    """Exempt all live objects from garbage collection: they stay alive until exit."""
    gc.collect()
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())
