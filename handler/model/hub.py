"""Fetches a model from the Hugging Face Hub: first what says whether it can run, then what runs of it.

docs/decisions/0113-checked-before-the-download.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from handler.formats.gguf.manifest import MANIFEST
from handler.formats.weight_names import INDEX, WHOLE, weight_names
from handler.model.checks.remote_code import check_code, code_repositories, follows_code
from handler.model.checks.stored_settings import stored_settings
from handler.model.gguf.location import gguf_ids
from handler.model.hub_commit import cached, listed
from handler.model.json_file import read_json
from handler.seam.code_names import CUSTOM_CODE
from handler.seam.config import EngineConfig
from handler.seam.errors import BadModel
from model_memory.stored_codes import MODELOPT_FILE, refusal

_CONFIG = "config.json"
# Top-level files beside the weights: never pickles, and code only to name it (handler/model/checks/custom_code.py).
_ENDINGS = (".json", ".jinja", ".model", ".txt")
_FOLDERS = ("code/", "additional_chat_templates/")


def fetch(config: EngineConfig, progress: Callable[[int, str], None]) -> Path:
    """The directory of the hub model `config.model` in the hub's cache, complete. Raises BadModel.

    Files that the cache has are not fetched again, and without network the cache alone serves.
    """
    if config.model.startswith(("/", ".")) or config.model.count("/") != 1:
        raise BadModel(f"HF_MODEL_ID {config.model!r} is neither a directory, a .gguf file nor a hub id")
    progress(0, f"downloading {config.model}")
    try:
        return _fetched(config)
    except BadModel:
        raise
    except Exception as exc:  # the hub's client lets errors of its HTTP library through, which has changed its name
        raise BadModel(
            f"the hub model {config.model!r} could not be downloaded ({type(exc).__name__}); give HF_MODEL_ID a "
            "directory, check the network, or set HF_TOKEN if the model is gated"
        ) from exc


def _fetched(config: EngineConfig) -> Path:
    commit = listed(config.model, config.revision)
    if commit is None:
        return cached(config.model, config.revision)
    names, trusted = commit.names, config.trust_remote_code
    _check_names(names, config.model)
    directory = commit.fetch(name for name in (_CONFIG, INDEX, MODELOPT_FILE) if name in names)
    check_before_download(directory, f"the hub model {config.model!r}", trust_remote_code=trusted)
    directory = commit.fetch(_beside(names, trust_remote_code=trusted) + _weights(names, directory))
    if follows_code(read_json(directory / _CONFIG), trust_remote_code=trusted):
        for repository in code_repositories(directory):
            _fetch_code(repository)
    commit.keep(directory)
    return directory


def _fetch_code(repository: str) -> None:
    """The modules of a repository, which transformers looks for in the cache."""
    commit = listed(repository, None)
    if commit is not None:
        commit.keep(commit.fetch(name for name in commit.names if name.endswith(".py")))


def _check_names(names: Sequence[str], model: str) -> None:
    """Raise BadModel for a repository without a configuration or safetensors files."""
    if _CONFIG not in names and (ids := gguf_ids(names, model)):
        raise BadModel(f"the hub model {model!r} holds GGUF files; give HF_MODEL_ID one of {', '.join(ids)}")
    if _CONFIG not in names:
        raise BadModel(f"the hub model {model!r} has no config.json, so transformers cannot load it")
    if not weight_names(names, [INDEX] if INDEX in names else None):
        pickles = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")))
        hint = f"; {pickles[0]} is a pickle and may run code, convert it to safetensors" if pickles else ""
        raise BadModel(f"the hub model {model!r} holds no .safetensors weights{hint}")


def check_before_download(directory: Path, named: str, *, trust_remote_code: bool) -> None:
    """Raise BadModel if the configuration in `directory` alone says that the model, `named`, cannot run here."""
    values = read_json(directory / _CONFIG)
    check_code(values, directory, trust_remote_code=trust_remote_code)
    if values.get("is_encoder_decoder") is True:
        raise BadModel(
            f"{named}, model type {values.get('model_type')!r}, is an encoder-decoder; only decoder-only language "
            "models can be served"
        )
    form = stored_settings(values, directory)
    if form is not None and (refused := refusal(form)):
        raise BadModel(f"{named} cannot be loaded: {refused}")
    if not follows_code(values, trust_remote_code=trust_remote_code):
        # Imported here: it imports torch.
        from handler.model.checks.model_config import read_config

        read_config(directory, trust_remote_code=False)


def _weights(names: Sequence[str], directory: Path) -> list[str]:
    listed = read_json(directory / INDEX).get("weight_map") if INDEX in names and WHOLE not in names else None
    return weight_names(names, map(str, listed.values()) if isinstance(listed, dict) else None)


def _beside(names: Sequence[str], *, trust_remote_code: bool) -> list[str]:
    """What is fetched beside the weights; all code if the model's may run."""
    return [name for name in names if _is_beside(name) or (trust_remote_code and name.endswith(".py"))]


def _is_beside(name: str) -> bool:
    if "/" in name:
        return name.startswith(_FOLDERS) and name.endswith((".py", ".jinja", ".txt"))
    usual = name.endswith(_ENDINGS) or name.startswith("tokenizer") or name in CUSTOM_CODE
    return usual and name != MANIFEST
