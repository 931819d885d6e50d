"""The files of an adapter's directory: its configuration, and its tensors. Nothing outside the directory is opened."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from handler.adapters.adapter import BadAdapter
from handler.adapters.adapter_config import CONFIG, AdapterConfig, parse_config
from handler.adapters.location import is_inside

WEIGHTS = "adapter_model.safetensors"
# Pickled weights execute code when they are read.
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_MAX_CONFIG_BYTES = 4 << 20
_TYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})


def read_files(directory: Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """The configuration, and all tensors by name, which share no memory with the file.

    Raises BadAdapter for a file that is missing, lies outside the directory or cannot be read, for types that are not
    floats, and for tensors with NaN or infinity.
    """
    if not directory.is_dir():
        raise BadAdapter(f"{directory} is not a directory")
    config = _file(directory, CONFIG)
    if config.stat().st_size > _MAX_CONFIG_BYTES:
        raise BadAdapter(f"{CONFIG} has more than {_MAX_CONFIG_BYTES} bytes")
    found = parse_config(config.read_bytes())
    if not (directory / WEIGHTS).exists() and any((directory / name).exists() for name in _PICKLES):
        raise BadAdapter(f"{directory} holds pickled weights; only {WEIGHTS} is read, which peft writes by default")
    return found, _tensors(_file(directory, WEIGHTS))


def _file(directory: Path, name: str) -> Path:
    """The file, which may be a link inside the directory."""
    path = directory / name
    if not path.exists():
        raise BadAdapter(f"{directory} has no {name}")
    if not is_inside(path, directory):
        raise BadAdapter(f"{name} is a link that leads out of {directory}")
    if not path.is_file():
        raise BadAdapter(f"{name} is not a file")
    return path.resolve()


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError) as exc:
        raise BadAdapter(f"{WEIGHTS} cannot be read: {str(exc)[:200]}") from exc
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BadAdapter(f"{WEIGHTS}: {name[:200]} is of the type {kind}, not a float")
        # A sum takes a third of the time; a sum of finite numbers may overflow.
        if not (bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())):
            raise BadAdapter(f"{WEIGHTS}: {name[:200]} holds NaN or infinity")
    return {name: tensor.float() if tensor.dtype is torch.float64 else tensor for name, tensor in tensors.items()}
