"""Reads a model's `config.json` from a directory, an S3 prefix or the Hub."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagemaker_deploy.errors import PreflightError
from sagemaker_deploy.sizing.model_shape import ModelShape, shape_from_config

HUB_URL = "https://huggingface.co"
_INDEX = "model.safetensors.index.json"
_TIMEOUT_S = 10.0


def load_shape(source: str, *, s3: Any = None, revision: str = "", hub_url: str = HUB_URL) -> ModelShape:
    """Return the sizes of the model at `source`: a directory, `s3://bucket/prefix/` (needs `s3`) or a Hub id.

    Raises `PreflightError` if no `config.json` can be read, `SpecError` if it does not describe a text decoder.
    """
    if source.startswith("s3://"):
        return _from_s3(source, s3)
    if Path(source).is_dir():
        return _from_directory(Path(source))
    return _from_hub(source, revision or "main", hub_url)


def _from_directory(directory: Path) -> ModelShape:
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as exc:
        raise PreflightError(f"no usable config.json in {directory}: {exc}") from exc
    sizes = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    return shape_from_config(config, sizes or None)


def _from_s3(uri: str, s3: Any) -> ModelShape:
    parts = urllib.parse.urlsplit(uri)
    prefix = parts.path.lstrip("/")
    sizes: dict[str, int] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix):
        sizes |= {item["Key"].removeprefix(prefix): int(item["Size"]) for item in page.get("Contents", ())}
    if "config.json" not in sizes:
        raise PreflightError(
            f"{uri} has no config.json directly below it",
            remedy="upload the model's directory with `upload`, and end the prefix with '/'",
        )
    config = json.loads(s3.get_object(Bucket=parts.netloc, Key=f"{prefix}config.json")["Body"].read())
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors") and "/" not in name)
    return shape_from_config(config, weights or None)


def _from_hub(model_id: str, revision: str, hub_url: str) -> ModelShape:
    base = f"{hub_url}/{urllib.parse.quote(model_id)}/resolve/{urllib.parse.quote(revision)}"
    try:
        config = _fetch(f"{base}/config.json")
    except (OSError, ValueError) as exc:
        raise PreflightError(
            f"config.json of {model_id} could not be read from the Hub: {exc}",
            remedy="give a local directory or an S3 prefix for the fit check, or skip it with --no-fit",
        ) from exc
    try:
        total = int(_fetch(f"{base}/{_INDEX}")["metadata"]["total_size"])
    except (OSError, ValueError, KeyError):
        return shape_from_config(config)
    return shape_from_config(config, total)


def _fetch(url: str) -> Mapping[str, Any]:
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"not a web address: {url}")
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - the scheme was checked
        body = json.load(reply)
    if not isinstance(body, dict):
        raise ValueError(f"{url} is not a JSON object")
    return body
