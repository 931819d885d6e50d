"""Finds the model and checks that its files are safe and complete, before any library opens them.

Never imports torch: the engine reports a missing model at once, not after torch's seconds of import.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from handler.formats.gguf.manifest import MANIFEST, check_sources, is_converted
from handler.formats.weight_names import INDEX, WHOLE, weight_names
from handler.model.checks.custom_code import custom_code_files, report_custom_code
from handler.model.checks.remote_code import check_code
from handler.model.gguf.location import fetch_gguf, gguf_in, is_gguf_id
from handler.model.gguf_model import BUNDLED_MODEL_ID, SHIPPED, bundled_gguf, converted
from handler.model.hub import fetch
from handler.model.json_file import read_json
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel

# SageMaker mounts model data at the first (its developer guide, "Custom Inference Code with Hosting Services"),
# Inference Endpoints at the second.
_MOUNTS = (Path("/opt/ml/model"), Path("/repository"))


def locate(config: EngineConfig, progress: Callable[[int, str], None]) -> tuple[Path, str]:
    """The checkpoint directory and the id to report for it. Converts or downloads the model if needed.

    Afterwards no library contacts the hub. Raises BadModel.
    """
    directory, model_id = find(config, progress)
    _go_offline()
    check_found(config, directory)
    if config.index == 0:  # all engines find the same
        report_custom_code(custom_code(config, directory), refuse=config.refuse_custom_code)
    return directory, config.served_model_id or model_id


def check_found(config: EngineConfig, directory: Path) -> None:
    """Raise BadModel unless the files in `directory` are safe and complete."""
    _check_manifest(directory, Path(config.cache_dir))
    check_files(directory, trust_remote_code=config.trust_remote_code)


def custom_code(config: EngineConfig, directory: Path) -> list[str]:
    """Files with code that is not run, of the checkpoint in `directory` and of the mounts. Raises BadModel.

    The SageMaker SDK mounts a user's code without weights if HF_MODEL_ID names the model.
    """
    model_config = read_json(directory / "config.json")
    found = custom_code_files(directory, model_config, trust_remote_code=config.trust_remote_code)
    for mount in _MOUNTS:
        if mount != directory:
            found += custom_code_files(mount, {}, trust_remote_code=False)
    return [path for path in found if path not in config.hook_files]


def find(config: EngineConfig, progress: Callable[[int, str], None]) -> tuple[Path, str]:
    """The directory of `config.model` and its id, unchecked. Converts or downloads it if needed. Raises BadModel."""
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
        return fetch(config, progress), config.model
    for mount in _MOUNTS:
        if mount.is_dir() and any(mount.iterdir()):
            return _in(mount, cache_dir, progress), str(mount)
    return converted(bundled_gguf(), cache_dir, progress), BUNDLED_MODEL_ID


def _in(directory: Path, cache_dir: Path, progress: Callable[[int, str], None]) -> Path:
    """The checkpoint in `directory`, which may hold a .gguf file instead."""
    gguf = gguf_in(directory)
    return directory if gguf is None else converted(gguf, cache_dir, progress)


def _go_offline() -> None:
    """Keep libraries from contacting the hub: everything needed has been fetched."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later
    constants.HF_HUB_OFFLINE = True


def _check_manifest(directory: Path, cache_dir: Path) -> None:
    """Raise BadModel for a manifest of .gguf files that is not our own: it names files to read, wherever they are."""
    own = [(root / "gguf").resolve() for root in (SHIPPED, cache_dir)]
    if is_converted(directory) and directory.resolve().parent not in own:
        raise BadModel(f"{directory / MANIFEST} is a file that this server writes into its cache alone; remove it")


def check_files(directory: Path, *, trust_remote_code: bool) -> None:
    """Raise BadModel if `directory` lacks a config or complete safetensors files, or if its config can run code."""
    config = read_json(directory / "config.json")
    check_code(config, directory, trust_remote_code=trust_remote_code)
    if is_converted(directory):
        check_sources(directory)
        return
    names = _weights_of(directory)
    if not names:
        others = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        hint = f"; {others[0]} is a pickle and may run code, convert it to safetensors" if others else ""
        raise BadModel(f"{directory} holds no .safetensors weights{hint}")
    for file in (directory / name for name in names):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as exc:
            raise BadModel(f"{file} could not be loaded, it is damaged or cut short: {exc}") from exc


def _weights_of(directory: Path) -> list[str]:
    """Names of the weight files; those of an index exist. Reads no weights.

    transformers would report a fault minutes later for a large model, without naming the file. Raises BadModel.
    """
    names, index = [path.name for path in directory.iterdir()], directory / INDEX
    if WHOLE in names or not index.is_file():
        return weight_names(names, None)
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BadModel(f"{index} must say in weight_map which file holds each weight")
    found = weight_names(names, map(str, shards.values()))
    missing = [name for name in found if not (directory / name).is_file()]
    if missing:
        raise BadModel(f"{directory} lacks {missing[0]}, which {index.name} names ({len(missing)} missing)")
    return found
