"""Which devices an engine takes: one GPU if the model fits, else as many as it needs; hence the number of engines.

The first engine decides and PID 1 passes the decision to the others. Engines do not share GPUs; on CPU they share cores
and memory.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from handler.seam.config import EngineConfig, Quantize
from handler.seam.errors import BadConfiguration

logger = logging.getLogger(__name__)

# Share of a GPU's free memory for weights; the rest is for keys, values and activations.
WEIGHTS_SHARE = 0.8
# Bytes per weight, scales included. Ignores embeddings and norms, which stay unquantised: they are a small part of
# models large enough for this to matter.
_QUANTIZED_BYTES = {Quantize.INT8: 1.1, Quantize.NF4: 0.6, Quantize.FP4: 0.6}


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one engine, in order; the first takes the input. `num_engines` such shares fit the machine."""

    own: tuple[torch.device, ...]
    num_engines: int = 1


def free_gpu_bytes() -> tuple[int, ...]:
    """Free bytes of each GPU that CUDA_VISIBLE_DEVICES shows."""
    return tuple(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))


def choose_devices(config: EngineConfig, device: torch.device, num_bytes: int, free_bytes: tuple[int, ...]) -> Devices:
    """This engine's share of the GPUs for weights of `num_bytes`; just `device` if it is numbered or no GPU.

    Raises BadConfiguration if more GPUs or engines are configured than fit.
    """
    if device.type != "cuda":
        if config.num_devices > 1:
            logger.warning("NUM_SHARD=%d is ignored: the engine runs on %s", config.num_devices, device.type)
        return Devices((device,))
    numbered: int | None = device.index  # torch's stubs omit None
    if numbered is not None:
        if config.num_engines > 1:
            raise BadConfiguration(f"ENGINE_REPLICAS must be 1 with DEVICE={device}. Given: {config.num_engines}")
        return Devices((device,))
    if config.num_devices > len(free_bytes):
        raise BadConfiguration(
            f"NUM_SHARD must be at most {len(free_bytes)}, the GPUs that are visible. Given: {config.num_devices}"
        )
    usable = free_bytes[: config.num_devices or len(free_bytes)]
    span = config.devices_per_engine or _span(num_bytes, usable, max(1, len(usable) // config.num_engines))
    if span * config.num_engines > len(usable):
        raise BadConfiguration(
            f"ENGINE_REPLICAS must be at most {len(usable) // span}: an engine takes {span} of {len(usable)} GPUs. "
            f"Given: {config.num_engines}"
        )
    first = config.index * span
    own = tuple(torch.device("cuda", index) for index in range(first, first + span))
    return Devices(own, len(usable) // span)


def _span(num_bytes: int, free_bytes: tuple[int, ...], most: int) -> int:
    """The fewest GPUs that hold the weights, up to `most`, judged by the GPU with the least free memory.

    If even `most` do not suffice, the loader quantises or refuses the model.
    """
    room = max(1, int(min(free_bytes) * WEIGHTS_SHARE))
    return min(most, max(1, -(-num_bytes // room)))


def weight_bytes(directory: Path, quantize: Quantize, dtype: torch.dtype) -> int:
    """Approximate bytes of the checkpoint's weights once loaded as `dtype`; 0 if unknown."""
    on_disk = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    try:
        config = json.loads((directory / "config.json").read_text("utf-8"))
        stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))
    except (OSError, ValueError, AttributeError):
        return on_disk
    if config.get("quantization_config"):
        return on_disk
    return int(on_disk / stored.itemsize * _QUANTIZED_BYTES.get(quantize, dtype.itemsize))


def memory_limits(devices: Devices, free_bytes: tuple[int, ...]) -> dict[int, int]:
    """accelerate's `max_memory`: this engine's GPUs, but not CPU or disk, where a step would take seconds."""
    return {device.index: int(free_bytes[device.index] * WEIGHTS_SHARE) for device in devices.own}
