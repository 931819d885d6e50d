"""A GGUF file's matrices, packed for this machine's kernel and kept on disk, so that later starts need not repack."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from handler.kernels.compiler import multiplies_matrices
from handler.linears.blocks_file import BLOCKS_FILE
from handler.linears.choice import computes_blocks, packed_for
from handler.linears.weight_blocks import load_blocks
from handler.seam.atomic_file import atomic_write

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight:
    """The arguments of `choice.packed_linear` for the module `name`."""

    name: str
    bits: int
    packed: Tensor
    scales_and_zeros: Tensor


def file_name(dtype: torch.dtype) -> str:
    """The layout depends on the processor, and perhaps on torch; scales are of the activations' `dtype`."""
    if computes_blocks(dtype):
        return "tiles.safetensors" if multiplies_matrices() else "vectors.safetensors"
    capability = torch.backends.cpu.get_cpu_capability().lower()
    return f"{capability}-{torch.__version__}-{str(dtype).removeprefix('torch.')}.safetensors"


def write_packed(directory: Path, target: Path, dtype: torch.dtype) -> None:
    """Pack the blocks of the converted model in `directory` into `target`. Raises OSError."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, blocks in load_blocks(directory / BLOCKS_FILE):
        tensors[f"{name}.{blocks.bits}"], tensors[f"{name}.scales"] = packed_for(blocks, dtype)
    with atomic_write(target) as scratch:
        save_file(tensors, scratch)
        # Any uid may serve it.
        scratch.chmod(0o644)


def packed_weights(directory: Path, cache_dir: Path, dtype: torch.dtype) -> Iterator[PackedWeight]:
    """The packed matrices of a converted model: from beside it, or from the cache, where they are made if absent.

    They are views of the mapped file. A damaged file is rebuilt in the cache. If the cache cannot be written, each
    start packs again.
    """
    name = file_name(dtype)
    cached = cache_dir / "packed" / f"{directory.name}-{name}"
    for path in (directory / "packed" / name, cached):
        if path.is_file() and _is_sound(path):
            yield from _read(path)
            return
    try:
        write_packed(directory, cached, dtype)
    except OSError as exc:
        logger.warning("packed weights are not kept: %s cannot be written: %s", cached.parent, exc.strerror or exc)
        for module, blocks in load_blocks(directory / BLOCKS_FILE):
            yield PackedWeight(module, blocks.bits, *packed_for(blocks, dtype))
        return
    yield from _read(cached)


def _is_sound(path: Path) -> bool:
    """True if the file's header can be read and fits its length; else the log says what is wrong."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError) as exc:
        logger.warning("%s is damaged or cut short, and is made anew: %s", path, exc)
        return False


def _read(path: Path) -> Iterator[PackedWeight]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - safe_open is no dict
            name, _, kind = key.rpartition(".")
            if kind != "scales":
                yield PackedWeight(name, int(kind), file.get_tensor(key), file.get_tensor(f"{name}.scales"))
