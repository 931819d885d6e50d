"""The engine process: load the model, prove that it is computed correctly, bind the socket, run.

Started by PID 1 as `python -m handler CONFIG.json`. Exit codes: 0 after SIGTERM, those of handler.seam.errors if it
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

import msgspec

from handler.model.location import locate
from handler.seam.config import EngineConfig, load_config
from handler.seam.errors import StartupError
from handler.seam.lifeline import die_with_parent
from handler.seam.logs import configure_logging
from handler.seam.protocol import ModelCard
from handler.seam.status import Phase, StatusBoard

logger = logging.getLogger("handler")

# Of torch's and oneDNN's caches of compiled matrix products, 1024 by default: one for each weight's shape and number of
# rows, 0.3 to 1.8 MB each (docs/decisions/0045).
_MAX_COMPILED = "256"


def main() -> int:
    """Run the engine until SIGTERM."""
    config = load_config(sys.argv[1])
    configure_logging("engine", level=config.log_level, as_json=config.log_json)
    die_with_parent(signal.SIGKILL)
    board = StatusBoard(Path(config.board_path))
    # A crash in a library leaves the stacks of all threads in the log; so does PID 1 asking before it ends a hang.
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
    board.enter(Phase.PREPARING, "looking for the model")
    # A million objects come to stay; walking them again and again takes a tenth of the start-up time.
    gc.disable()
    # transformers imports scipy, if it finds it, for the loss of object detectors: 0.4 s for nothing here.
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]
    bound_compiled()
    # Before torch is loaded, which takes seconds: what is not there is said at once.
    located = locate(config, board.advance)
    board.enter(Phase.PREPARING, "importing torch and transformers")
    # Heavy imports come after the board says why nothing answers yet.
    from handler.startup import start

    core, card = start(config, board, located)
    _publish_card(card, Path(config.card_path))

    def stop(_signum: int, _frame: FrameType | None) -> None:
        core.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is alive now lives for ever; the collector need not walk it again.
    gc.collect()
    gc.freeze()
    gc.enable()
    board.beat()
    board.enter(Phase.READY, f"serving {card.model_id}")
    logger.info("ready in %.1f s", time.monotonic() - started)
    core.run()
    core.shut_down()
    return 0


def bound_compiled() -> None:
    """Bound what this process keeps compiled for the processor, unless the environment does. Before torch is loaded."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, _MAX_COMPILED)


def _publish_card(card: ModelCard, path: Path) -> None:
    """Write the card whole or not at all: workers read it as soon as the phase is READY."""
    scratch = path.with_suffix(".new")
    scratch.write_bytes(msgspec.json.encode(card))
    os.replace(scratch, path)


if __name__ == "__main__":
    sys.exit(main())
