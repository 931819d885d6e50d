"""Reads a model's `config.json` and the sizes of its files from a directory, an S3 prefix or the Hub."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_memory.stored_codes import MODELOPT_FILE, of_modelopt, quantization_of
from sagemaker_deploy.errors import PreflightError
from sagemaker_deploy.sizing.gguf_header import shape_from_gguf
from sagemaker_deploy.sizing.hub import Hub
from sagemaker_deploy.sizing.model_shape import ModelShape, shape_from_config

_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class ModelFiles:
    """`names` are the files at the top, None if they could not be listed; `weights_bytes` is None if unknown."""

    shape: ModelShape
    read_from: str
    names: frozenset[str] | None = None

    def problem(self) -> str:
        """Return why the container would refuse these files, "" if it would not."""
        if self.names is None or any(name.endswith(".safetensors") for name in self.names):
            return ""
        pickles = sorted(name for name in self.names if name.endswith(_PICKLES))
        ggufs = sorted(name for name in self.names if name.endswith(".gguf"))
        hint = f"; {pickles[0]} is a pickle, convert it to safetensors" if pickles else ""
        hint = f"; {ggufs[0]} is served if a directory or S3 holds it and the model names the file" if ggufs else hint
        return f"there are no .safetensors weights{hint}"


def read_model(source: str, *, s3: Any = None, revision: str = "", hub: Hub | None = None) -> ModelFiles:
    """Return the sizes of the model at `source`: a directory, a .gguf file, `s3://…` (needs `s3`) or a Hub id.

    Raises `PreflightError` if no `config.json` can be read, `SpecError` if it does not describe a text decoder.
    """
    if source.startswith("s3://"):
        return _from_s3(source, s3)
    path = Path(source)
    if path.is_file():
        return ModelFiles(shape_from_gguf(path), "the header of the GGUF file")
    return _from_directory(path) if path.is_dir() else _from_hub(source, revision or "main", hub or Hub())


def load_shape(source: str, *, s3: Any = None, revision: str = "", hub: Hub | None = None) -> ModelShape:
    """Return only the sizes; see `read_model`."""
    return read_model(source, s3=s3, revision=revision, hub=hub).shape


def _from_directory(directory: Path) -> ModelFiles:
    try:
        config = json.loads((directory / "config.json").read_text())
        sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    except (OSError, ValueError) as exc:
        raise PreflightError(f"no usable config.json in {directory}: {exc}") from exc
    if MODELOPT_FILE in sizes:
        config = _with_form(config, lambda: json.loads((directory / MODELOPT_FILE).read_text()))
    return _listed(config, sizes)


def _with_form(config: Any, read: Callable[[], Any]) -> Any:
    """`config` with the form that ModelOpt's own file says, which `read` reads, if it says none itself."""
    if not isinstance(config, dict) or quantization_of(config) is not None:
        return config
    try:
        return config | {"quantization_config": of_modelopt(read())}
    except (OSError, ValueError, TypeError):  # there is none
        return config


def _from_s3(uri: str, s3: Any) -> ModelFiles:
    parts = urllib.parse.urlsplit(uri)
    prefix, _, file = parts.path.lstrip("/").rpartition("/")
    prefix += "/" if prefix else ""
    sizes: dict[str, int] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix):
        sizes |= {item["Key"].removeprefix(prefix): int(item["Size"]) for item in page.get("Contents", ())}
    ggufs = sorted(name for name in sizes if name.endswith(".gguf") and "/" not in name)
    if file:
        _check_gguf(uri, file, ggufs)
    if "config.json" not in sizes:
        hint = f"name the file: {uri}{ggufs[0]}" if ggufs else "upload the model's directory with `upload`"
        raise PreflightError(f"{uri} has no config.json directly below it", remedy=hint)
    body = s3.get_object(Bucket=parts.netloc, Key=f"{prefix}config.json")["Body"].read()
    try:
        config = json.loads(body)
    except ValueError as exc:
        raise PreflightError(f"config.json below {uri} is not JSON: {exc}") from exc
    if MODELOPT_FILE in sizes:
        named = {"Bucket": parts.netloc, "Key": f"{prefix}{MODELOPT_FILE}"}
        config = _with_form(config, lambda: json.loads(s3.get_object(**named)["Body"].read()))
    return _listed(config, {name: size for name, size in sizes.items() if "/" not in name})


def _check_gguf(uri: str, file: str, ggufs: list[str]) -> None:
    """Raises `PreflightError` in any case: a header would have to be downloaded with its vocabulary."""
    if file not in ggufs:
        raise PreflightError(f"{uri} does not exist")
    raise GgufInS3(f"{uri} was not read: its header would have to be downloaded")


class GgufInS3(PreflightError):
    """The file exists; its sizes are unknown."""


def _from_hub(model_id: str, revision: str, hub: Hub) -> ModelFiles:
    try:
        config = hub.file(model_id, revision, "config.json")
    except urllib.error.HTTPError as exc:
        raise _refusal(model_id, revision, exc) from exc
    except (OSError, ValueError) as exc:
        raise HubUnreachable(
            f"config.json of {model_id} could not be read from the Hub: {_reason(exc)}",
            remedy="give a local directory or an S3 prefix for the fit check, or skip it with --no-fit",
        ) from exc
    config = _with_form(config, lambda: hub.file(model_id, revision, MODELOPT_FILE))
    try:
        total = int(hub.file(model_id, revision, _INDEX)["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return _single_file(model_id, revision, hub, config)
    shape = shape_from_config(config, total)
    return ModelFiles(shape, "config.json and the index of the safetensors files", None)


class HubUnreachable(PreflightError):
    """The Hub gave no answer, which says nothing of the model."""


def _refusal(model_id: str, revision: str, error: urllib.error.HTTPError) -> PreflightError:
    """The Hub answers 401 for what does not exist, unless a token is sent."""
    at = f"config.json of {model_id} (revision {revision})"
    if error.code in (401, 403, 404):
        return PreflightError(
            f"{at} could not be read from the Hub: {error.code}, it is misspelt, private or gated",
            remedy="check the spelling, give --hf-token-from for a gated model, or a local directory or an S3 prefix",
        )
    return HubUnreachable(f"{at} could not be read from the Hub: HTTP {error.code}")


def _reason(error: Exception) -> str:
    """The reason inside urllib's wrapper."""
    return str(getattr(error, "reason", "") or error)


def _single_file(model_id: str, revision: str, hub: Hub, config: Mapping[str, Any]) -> ModelFiles:
    try:
        sizes = hub.file_sizes(model_id, revision)
    except (OSError, ValueError):
        return ModelFiles(shape_from_config(config), "config.json; the files' sizes were not read")
    return _listed(config, sizes)


def _listed(config: Mapping[str, Any], sizes: Mapping[str, int]) -> ModelFiles:
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    read_from = "config.json and the sizes of the safetensors files" if weights else "config.json"
    return ModelFiles(shape_from_config(config, weights or None), read_from, frozenset(sizes))
