"""Which devices an engine takes: one GPU if the model fits it, else as many as hold it; and how many engines follow.

The first engine decides and PID 1 tells the others, so all decide alike. Engines do not share GPUs; on CPU they share
cores and memory.
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

# Weights may take so much of a GPU's free memory; the rest is for keys, values and the step itself.
WEIGHTS_SHARE = 0.8
# Bytes of a weight, scales included; embeddings and norms, which stay as they are, are few in models that need this.
_QUANTIZED_BYTES = {Quantize.INT8: 1.1, Quantize.NF4: 0.6, Quantize.FP4: 0.6}


@dataclass(frozen=True, slots=True)
class Devices:
    """Of one engine: `own` in order, the first takes the input; there is room for `num_engines` such shares."""

    own: tuple[torch.device, ...]
    num_engines: int = 1


def free_gpu_bytes() -> tuple[int, ...]:
    """What is free on each GPU that CUDA_VISIBLE_DEVICES leaves."""
    return tuple(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))


def choose_devices(config: EngineConfig, device: torch.device, num_bytes: int, free_bytes: tuple[int, ...]) -> Devices:
    """This engine's share of the GPUs for weights of `num_bytes`, if `device` is a GPU of no number.

    Raises BadConfiguration for more GPUs or engines than there can be.
    """
    if device.type != "cuda":
        if config.num_devices > 1:
            logger.warning("NUM_SHARD=%d is ignored: the engine runs on %s", config.num_devices, device.type)
        return Devices((device,))
    numbered: int | None = device.index  # torch's stubs know no device without a number
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
    """The fewest GPUs that hold the weights; the smallest GPU counts, since any of them may be an engine's.

    What fits no number is left to the loader, which quantises or refuses.
    """
    room = max(1, int(min(free_bytes) * WEIGHTS_SHARE))
    return min(most, max(1, -(-num_bytes // room)))


def weight_bytes(directory: Path, quantize: Quantize, dtype: torch.dtype) -> int:
    """About what the checkpoint's weights take once loaded as `dtype`; 0 if it cannot be told."""
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
    """accelerate's `max_memory`: this engine's GPUs and nothing on CPU or disk, which would take seconds a step."""
    return {device.index: int(free_bytes[device.index] * WEIGHTS_SHARE) for device in devices.own}
