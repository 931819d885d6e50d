"""`python -m container.hooks.host RUN_DIR EPOCH`: load the hook, bind the socket, run.

PID 1 starts it. Exit codes: 0 after SIGTERM; 3 if the hook cannot be loaded; 70 if the process breaks.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec

from container.hooks.card import HookCard, write_card
from container.hooks.found import find_hook
from container.hooks.host.host import HookStuck, Host
from container.hooks.host.memory import limit_memory
from container.hooks.host.output import capture_output, end_lines, keep_own_loggers, request_id
from container.hooks.model.caller import current_caller
from container.hooks.model.engine_model import EngineModel
from container.hooks.model.nested import nested_headers, nested_token
from container.hooks.requirements import BadRequirements, add_to_path, install
from container.hooks.user_code.hook import Convention, Hook, HookFiles, HookLoadError
from container.hooks.user_code.load import load
from container.run_dir import RunDir
from container.settings import Settings
from handler.seam.errors import BadModel, StartupError, one_line
from handler.seam.lifeline import die_with_parent
from handler.seam.logs import configure_logging
from handler.seam.protocol import ModelCard
from handler.seam.status import Phase, StatusBoard

logger = logging.getLogger("container.hooks")


def main() -> int:
    """Run the hook until SIGTERM. Returns the exit code."""
    settings = Settings.from_environ(os.environ)
    run_dir, epoch = RunDir(Path(sys.argv[1])), int(sys.argv[2])
    configure_logging("hook", level=settings.log_level, as_json=settings.json_output)
    die_with_parent(signal.SIGKILL)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    board = StatusBoard(run_dir.hook.board)
    capture_output()
    try:
        return _serve(settings, run_dir, epoch, board)
    except HookLoadError as exc:
        return _fail(board, one_line(exc), exc.__cause__, BadModel.exit_code)
    except BadRequirements as exc:
        return _fail(board, one_line(exc), None, BadModel.exit_code)
    except MemoryError as exc:
        return _fail(board, "the hook ran out of memory", exc, StartupError.exit_code)
    except HookStuck as exc:
        return _fail(board, str(exc), None, StartupError.exit_code)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - PID 1 says it, the log has the traceback
        return _fail(board, f"the hook's process failed: {type(exc).__name__}", exc, StartupError.exit_code)


def _fail(board: StatusBoard, message: str, cause: BaseException | None, code: int) -> int:
    """PID 1 logs the message; the traceback stands before it in the log."""
    if cause is not None:
        logger.warning("why the hook cannot run:", exc_info=cause)
    board.enter(Phase.FAILED, message)
    return code


def _serve(settings: Settings, run_dir: RunDir, epoch: int, board: StatusBoard) -> int:
    files = find_hook(settings)
    if files is None:
        raise HookLoadError("the hook's files have gone")
    _install(files, settings, board)
    limit_memory(settings.hook_max_memory_mb)
    hook = _load(files, settings, run_dir, board)
    num_threads = settings.hook_threads
    if files.unused:
        logger.warning("code that is not run beside it: %s", ", ".join(map(str, files.unused)))
    host = Host(
        hook,
        str(run_dir.hook.socket(epoch)),
        board,
        num_threads=num_threads,
        max_calls=settings.max_concurrent_requests or max(128, 2 * num_threads),
    )
    _stop_on_sigterm(host)
    card = _card(hook, files)
    write_card(run_dir.hook.card, card)
    board.beat()
    board.enter(Phase.READY, f"running {files.path.name if files.path else card.convention}")
    logger.info("ready: %s by the rules of %s", ", ".join(card.files), card.convention)
    host.run()
    return 0


def _install(files: HookFiles, settings: Settings, board: StatusBoard) -> None:
    """Make what the code requires importable in this process. Raises BadRequirements."""
    if not settings.install_requirements or not (files.requirements or settings.pip_args):
        return
    board.enter(Phase.PREPARING, f"installing {files.requirements.name if files.requirements else 'STANDARD_PIP_ARGS'}")
    packages = install(files.requirements, Path(settings.cache_dir) / "packages", pip_args=settings.pip_args)
    if packages is not None:
        add_to_path(packages)


def _load(files: HookFiles, settings: Settings, run_dir: RunDir, board: StatusBoard) -> Hook:
    board.enter(Phase.LOADING, f"loading the hook {files.path.name if files.path else files.convention}")
    try:
        return load(files, _engine_model(settings, run_dir))
    finally:
        end_lines()
        keep_own_loggers()


def _engine_model(settings: Settings, run_dir: RunDir) -> EngineModel:
    """Our own routes, over this machine's loopback: batching, templates, limits and errors are every client's."""
    host = settings.host if settings.host not in {"0.0.0.0", "::", ""} else "127.0.0.1"  # noqa: S104 - compared only
    return EngineModel(
        f"http://{f'[{host}]' if ':' in host else host}:{settings.port}",
        api_key=(settings.api_key or "").partition(",")[0],
        directory=partial(_tokenizer_directory, run_dir.card),
        context=partial(_context, nested_token(run_dir.path)),
        timeout_s=settings.stream_timeout_s,
    )


def _tokenizer_directory(card: Path) -> Path | None:
    """Where the engine found the model's tokenizer; None until it is ready."""
    return Path(msgspec.json.decode(card.read_bytes(), type=ModelCard).tokenizer_dir) if card.exists() else None


def _context(token: str) -> dict[str, str]:
    """Headers that name the request whose hook calls, and its caller, and say that the call is for the engine."""
    found = request_id.get()
    return nested_headers(token, current_caller.get()) | ({} if found is None else {"x-request-id": found})


def _card(hook: Hook, files: HookFiles) -> HookCard:
    return HookCard(
        convention=files.convention,
        files=[str(files.path)] if files.path is not None else [],
        owns_model=hook.owns_model,
        overrides_ping=hook.overrides_ping,
        takes_predict=files.convention is Convention.ENDPOINTS,
        is_async=hook.is_async,
    )


def _stop_on_sigterm(host: Host) -> None:
    def stop(_signum: int, _frame: FrameType | None) -> None:
        host.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    # Threads that a hook holds cannot be joined.
    os._exit(exit_code)
