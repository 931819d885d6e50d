"""A user's file, imported: its neighbours are found, and a failure becomes one line."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

from container.hooks.user_code.hook import HookLoadError

logger = logging.getLogger(__name__)

# Names that `import` finds in this server before it looks beside the user's file.
_OURS = ("container", "handler", "model_memory")


def import_file(path: Path, directory: Path) -> ModuleType:
    """Execute `path` with `directory` first in sys.path. Raises HookLoadError."""
    _search_first(directory, path)
    # The file's own name, so that a neighbour that imports it gets this one; never that of a package of this server.
    name = path.stem if path.stem not in sys.modules else f"user_code_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HookLoadError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        del sys.modules[name]
        raise load_error(f"{path} cannot be imported", exc) from exc
    return module


def import_module(name: str, directory: Path) -> ModuleType:
    """Import an installed module, or one in `directory`. Raises HookLoadError."""
    _search_first(directory)
    try:
        return importlib.import_module(name)
    except BaseException as exc:
        raise load_error(f"module {name} cannot be imported", exc) from exc


def load_error(what: str, exc: BaseException) -> HookLoadError:
    """What failed, as one line. KeyboardInterrupt is raised again."""
    if isinstance(exc, KeyboardInterrupt):
        raise exc
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        missing = exc.name.partition(".")[0]
        return HookLoadError(f"{what}: package {missing} is not installed; name it in requirements.txt")
    if isinstance(exc, SystemExit):
        return HookLoadError(f"{what}: the code ends the process ({exc.code!r})")
    text = " ".join(str(exc).split())
    return HookLoadError(f"{what}: {type(exc).__name__}: {text}" if text else f"{what}: {type(exc).__name__}")


def _search_first(directory: Path, runs: Path | None = None) -> None:
    """Put `directory` first; log which of its modules no `import` finds. `runs` is loaded by its path."""
    if sys.path[:1] != [str(directory)]:
        sys.path.insert(0, str(directory))
        importlib.invalidate_caches()
        for name in _OURS:
            for path in (directory / name / "__init__.py", directory / f"{name}.py"):
                if path.is_file() and path != runs:
                    logger.warning("%s: `import %s` gets this server's package of that name", path, name)
