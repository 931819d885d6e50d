"""Where the adapters are that the container starts with: directories, or repositories of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handler.model.hub_commit import cached, listed
from handler.seam.adapter_list import AdapterList
from handler.seam.config import AdapterSource, EngineConfig
from handler.seam.errors import BadConfiguration, StartupError

FILES = ("adapter_config.json", "adapter_model.safetensors")


def is_inside(path: Path, directory: Path) -> bool:
    """Whether an adapter's file lies in its directory, links followed, or among the blobs of the hub's cache.

    The cache keeps a repository's files in `models--ORG--NAME/blobs`, and `snapshots/COMMIT` beside them has links.
    Only the blobs of the directory's own repository count.
    """
    real, root = path.resolve(), directory.resolve()
    repositories = (each.parent.parent for each in (root, *root.parents) if each.parent.name == "snapshots")
    blobs = (each / "blobs" for each in repositories if each.name.startswith("models--"))
    return any(real.is_relative_to(each) for each in (root, *blobs))


def fetch_adapters(config: EngineConfig, progress: Callable[[int, str], None]) -> None:
    """Put the hub's adapters of LORA_ADAPTERS into the hub's cache. Call it before `locate`, which goes offline.

    Raises BadConfiguration. An engine that is started again finds them in the cache, or has a copy.
    """
    if config.adapters_path and AdapterList(Path(config.adapters_path)).exists:
        return
    for source in config.adapters if config.max_adapters else ():
        if not Path(source.path).is_dir():
            progress(0, f"downloading the adapter {source.path}")
            _fetch(source)


def check_names(config: EngineConfig, model_id: str) -> None:
    """Raise BadConfiguration if LORA_ADAPTERS has the model's id, which without HF_MODEL_ID only its files tell."""
    if any(each.name == model_id for each in config.adapters):
        raise BadConfiguration(f"LORA_ADAPTERS must not have a name of the model itself. Given: {model_id!r}")


def adapter_directory(src: str, revision: str | None) -> Path:
    """The directory of an adapter, which may be in the hub's cache. Raises BadConfiguration."""
    if Path(src).is_dir():
        return Path(src)
    try:
        return cached(src, revision)
    except Exception as exc:  # the hub's client has its own
        raise BadConfiguration(f"the adapter {src!r} is neither a directory nor in the hub's cache") from exc


def _fetch(source: AdapterSource) -> None:
    if source.path.startswith(("/", ".")) or source.path.count("/") != 1:
        raise BadConfiguration(f"LORA_ADAPTERS: {source.path!r} is neither a directory nor a hub id")
    try:
        commit = listed(source.path, source.revision)
        if commit is None:  # the hub does not answer
            cached(source.path, source.revision)
            return
        for name in FILES:
            if name not in commit.names:
                raise BadConfiguration(f"LORA_ADAPTERS: the hub's {source.path!r} has no {name}")
        commit.keep(commit.fetch(FILES))
    except StartupError:
        raise
    except Exception as exc:  # the hub's client lets errors of its HTTP library through
        raise BadConfiguration(
            f"LORA_ADAPTERS: the adapter {source.path!r} could not be downloaded ({type(exc).__name__}); give a "
            "directory, check the network, or set HF_TOKEN if it is gated"
        ) from exc
