"""Whether a user's code runs in this container, and which files. PID 1, the hook process and the engine agree by it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from container.hooks.user_code.files import find
from container.hooks.user_code.hook import HookFiles, HookSources
from container.settings import Settings

# SageMaker mounts model data at the first, Inference Endpoints at the second.
MOUNTS = (Path("/opt/ml/model"), Path("/repository"))


def find_hook(settings: Settings, environ: Mapping[str, str] = os.environ) -> HookFiles | None:
    """The hook's files, or None. Raises HookLoadError if a variable names what cannot be used."""
    sources = HookSources.read(environ)
    return find(model_directory(settings.model), sources, trusted=settings.trust_custom_code)


def model_directory(model: str) -> Path | None:
    """Where a user's code may lie: the model's own directory, else a mount that holds anything.

    The SageMaker SDK mounts a user's code without weights if HF_MODEL_ID names the model.
    """
    if model and Path(model).is_dir():
        return Path(model)
    return next((mount for mount in MOUNTS if mount.is_dir() and any(mount.iterdir())), None)


def running_files(files: HookFiles) -> list[str]:
    """Sorted paths of the code that runs: the hook's file, what it may import beside it, and its requirements."""
    found = {path for path in files.directory.glob("*.py") if path not in files.unused}
    found |= {path for path in (files.path, files.requirements) if path is not None}
    return sorted(map(str, found))
