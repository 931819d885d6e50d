"""Finds files with a user's own code in a model's directory that are not run, so that the server says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handler.seam.code_names import CODE_FOLDER, CUSTOM_CODE, REQUIREMENTS
from handler.seam.errors import BadModel

logger = logging.getLogger(__name__)


def custom_code_files(directory: Path, config: dict[str, Any], *, trust_remote_code: bool) -> list[str]:
    """Sorted paths of code in `directory` that is not run.

    Modules that `config` (config.json) names in `auto_map` are run if `trust_remote_code`, so they do not count then.
    """
    run = set(_modules(config)) if trust_remote_code else set()
    found = {name for name in CUSTOM_CODE if (directory / name).is_file()} - run
    folder = directory / CODE_FOLDER
    found |= {f"{CODE_FOLDER}/{path.name}" for path in folder.glob("*.py") if path.is_file()}
    if (folder / REQUIREMENTS).is_file():
        found.add(f"{CODE_FOLDER}/{REQUIREMENTS}")
    return sorted(str(directory / name) for name in found)


def report_custom_code(files: list[str], *, refuse: bool) -> None:
    """Log one line that names `files`. Raises BadModel with the same names if `refuse`."""
    if not files:
        return
    names = ", ".join(files)
    if refuse:
        raise BadModel(f"REFUSE_CUSTOM_CODE is set, and this server does not run {names}")
    logger.warning("ignored, as TRUST_CUSTOM_CODE is not set, another file runs or none of them is a hook: %s", names)


def _modules(config: dict[str, Any]) -> Iterator[str]:
    """File names of the modules in `auto_map`; a value is "module.Class" or a list of such, some of them null."""
    auto_map = config.get("auto_map")
    for value in auto_map.values() if isinstance(auto_map, dict) else ():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                yield name.rpartition("--")[2].partition(".")[0] + ".py"
