"""Finds the model and checks that its files are safe and complete, before any library opens them.

Never imports torch: the engine reports a missing model at once, not after torch's seconds of import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from handler.formats.gguf.manifest import check_sources, is_converted
from handler.model.checks.custom_code import CUSTOM_CODE, custom_code_files, report_custom_code
from handler.model.checks.remote_code import check_code
from handler.model.gguf.location import fetch_gguf, gguf_in, is_gguf_id
from handler.model.gguf_model import BUNDLED_MODEL_ID, bundled_gguf, converted
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel

# SageMaker mounts model data at the first (its developer guide, "Custom Inference Code with Hosting Services"),
# Inference Endpoints at the second.
_MOUNTS = (Path("/opt/ml/model"), Path("/repository"))
# What a hub download may fetch: never pickles, and code only to name it (handler/model/checks/custom_code.py).
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "tokenizer*", "*.txt", *CUSTOM_CODE, "code/*.py"]
# Fetched too if the model's code may run: its modules, and those that they import.
_HUB_CODE = ["*.py"]


def locate(config: EngineConfig, progress: Callable[[int, str], None]) -> tuple[Path, str]:
    """The checkpoint directory and the id to report for it. Converts or downloads the model if needed.

    Afterwards no library contacts the hub. Raises BadModel.
    """
    directory, model_id = _find(config, progress)
    _go_offline()
    check_files(directory, trust_remote_code=config.trust_remote_code)
    if config.index == 0:  # all engines find the same
        report_custom_code(custom_code(config, directory), refuse=config.refuse_custom_code)
    return directory, config.served_model_id or model_id


def custom_code(config: EngineConfig, directory: Path) -> list[str]:
    """Files with code that is not run, of the checkpoint in `directory` and of the mounts. Raises BadModel.

    The SageMaker SDK mounts a user's code without weights if HF_MODEL_ID names the model.
    """
    model_config = read_json(directory / "config.json")
    found = custom_code_files(directory, model_config, trust_remote_code=config.trust_remote_code)
    for mount in _MOUNTS:
        if mount != directory:
            found += custom_code_files(mount, {}, trust_remote_code=False)
    return found


def _find(config: EngineConfig, progress: Callable[[int, str], None]) -> tuple[Path, str]:
    cache_dir = Path(config.cache_dir)
    if config.model:
        path = Path(config.model)
        if path.is_file() and path.suffix == ".gguf":
            return converted(path, cache_dir, progress), config.model
        if path.is_dir():
            return _in(path, cache_dir, progress), config.model
        if is_gguf_id(config.model):
            path = fetch_gguf(config.model, config.revision, progress)
            return converted(path, cache_dir, progress), config.model
        return _download(config, progress), config.model
    for mount in _MOUNTS:
        if mount.is_dir() and any(mount.iterdir()):
            return _in(mount, cache_dir, progress), str(mount)
    return converted(bundled_gguf(), cache_dir, progress), BUNDLED_MODEL_ID


def _in(directory: Path, cache_dir: Path, progress: Callable[[int, str], None]) -> Path:
    """The checkpoint in `directory`, which may hold a .gguf file instead."""
    gguf = gguf_in(directory)
    return directory if gguf is None else converted(gguf, cache_dir, progress)


def _download(config: EngineConfig, progress: Callable[[int, str], None]) -> Path:
    if config.model.startswith(("/", ".")) or config.model.count("/") != 1:
        raise BadModel(f"HF_MODEL_ID {config.model!r} is neither a directory, a .gguf file nor a hub id")
    progress(0, f"downloading {config.model}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = _HUB_PATTERNS + (_HUB_CODE if config.trust_remote_code else [])
    try:
        return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as exc:
        raise BadModel(
            f"the hub model {config.model!r} could not be downloaded ({type(exc).__name__}); give HF_MODEL_ID a "
            "directory, check the network, or set HF_TOKEN if the model is gated"
        ) from exc


def _go_offline() -> None:
    """Keep libraries from contacting the hub: everything needed has been fetched."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later
    constants.HF_HUB_OFFLINE = True


def check_files(directory: Path, *, trust_remote_code: bool) -> None:
    """Raise BadModel if `directory` lacks a config or complete safetensors files, or if its config can run code."""
    config = read_json(directory / "config.json")
    check_code(config, directory, trust_remote_code=trust_remote_code)
    if is_converted(directory):
        check_sources(directory)
        return
    if not any(directory.glob("*.safetensors")):
        others = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        hint = f"; {others[0]} is a pickle and may run code, convert it to safetensors" if others else ""
        raise BadModel(f"{directory} holds no .safetensors weights{hint}")
    _check_weights(directory)


def _check_weights(directory: Path) -> None:
    """Check that every shard of the index exists and that every file's header fits its length. Reads no weights.

    transformers would report either fault minutes later for a large model, without naming the file.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file() and not (directory / "model.safetensors").is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise BadModel(f"{index} must say in weight_map which file holds each weight")
        missing = sorted(name for name in set(map(str, shards.values())) if not (directory / name).is_file())
        if missing:
            raise BadModel(f"{directory} lacks {missing[0]}, which {index.name} names ({len(missing)} missing)")
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as exc:
            raise BadModel(f"{file} could not be loaded, it is damaged or cut short: {exc}") from exc


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the model. Raises BadModel with the file's name."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise BadModel(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadModel(f"{path} is not valid JSON") from exc
    if not isinstance(found, dict):
        raise BadModel(f"{path} must hold a JSON object")
    return found
